"""Commands and paths as they can be typed where this process was started, and text that is safe to print."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONSOLE = "minigpt"  # the command that installing the package makes
MODULE = "minigpt_flax"
SCRIPTS = {"train": "train.py"}  # commands that have a script of their own in the repository


def program(started: str | None = None) -> str:
    """What this process calls itself where it reports a mistake.

    Args:
      started: the path by which it was started; None takes Python's own word.

    >>> program("/usr/bin/minigpt"), program("train.py"), program("minigpt_flax/__main__.py")
    ('minigpt', 'train.py', 'minigpt_flax')
    """
    path = Path(sys.argv[0] if started is None else started)
    if path.stem == CONSOLE:
        return CONSOLE
    return path.name if path.name in SCRIPTS.values() else MODULE


def line(command: str, started: str | None = None) -> str:
    """How one types a command here.

    Args:
      command: its name.
      started: as in :func:`program`.

    >>> line("train", "/usr/bin/minigpt"), line("train", "train.py"), line("sample", "train.py")
    ('minigpt train', 'python train.py', 'python -m minigpt_flax sample')
    """
    path = Path(sys.argv[0] if started is None else started)
    if path.stem == CONSOLE:
        return f"{CONSOLE} {command}"
    module = path.name == "__main__.py" and path.parent.name == MODULE
    return f"python -m {MODULE} {command}" if module or command not in SCRIPTS else f"python {SCRIPTS[command]}"


def show(path: Path | str) -> str:
    """A path as it would be typed: relative when it lies below the working directory.

    >>> show(Path.cwd() / "runs" / "a"), show("/etc/passwd")
    ('runs/a', '/etc/passwd')
    """
    try:
        found, here = Path(os.path.realpath(path)), Path.cwd()
    except (OSError, ValueError):  # the working directory was removed, or the name has a NUL
        return str(path)
    return str(found.relative_to(here)) if found.is_relative_to(here) else str(found)
