"""Commands and paths as they can be typed where this process was started, and as they are shown."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from minigpt_flax.text import printable

PACKAGE = "jaxopt-mini"  # the distribution
ROOT = Path(__file__).resolve().parents[1]  # the folder that holds the package
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


def line(command: str, *words: Path | str, started: str | None = None) -> str:
    """A command as it can be typed in the shell where this process was started.

    Args:
      command: its name.
      *words: flags, values and paths; those that a shell would change are quoted.
      started: as in :func:`program`.

    >>> line("train", started="/usr/bin/minigpt"), line("eval", "my run", started="/usr/bin/minigpt")
    ('minigpt train', "minigpt eval 'my run'")
    """
    path = Path(sys.argv[0] if started is None else started)
    return " ".join([_start_of(command, path), *(quote(typed(word)) for word in words)]).strip()


def _start_of(command: str, path: Path) -> str:
    if path.stem == CONSOLE:
        return f"{CONSOLE} {command}"
    script = SCRIPTS.get(command)
    if script is not None and path.name != "__main__.py" and (ROOT / script).is_file():
        return f"python {quote(typed(ROOT / script))}"
    above = "" if _is_importable() else f"PYTHONPATH={quote(typed(ROOT))} "
    return f"{above}python -m {MODULE} {command}"


def _is_importable() -> bool:
    """Whether ``python -m minigpt_flax`` finds this package from the working directory."""
    others = {os.path.realpath(entry) for entry in sys.path[1:]}  # the first is the started script's own folder
    if str(ROOT) in others or ROOT == _here():
        return True
    from importlib.metadata import PackageNotFoundError, distribution  # a hundredth of a second

    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return Path(str(found.locate_file(""))).resolve() != ROOT  # else what setuptools left beside the sources


def typed(word: Path | str) -> str:
    """A path as :func:`show` writes it, which no command takes for a flag; other words as they are."""
    if not isinstance(word, Path):
        return word
    text = show(word)
    return f"./{text}" if text.startswith("-") else text


def quote(word: str) -> str:
    r"""Quotes a word for a shell, if need be; control characters are escaped as Bash and Zsh read them.

    >>> quote("runs/a"), quote("my run"), quote("a\x1bb")
    ('runs/a', "'my run'", "$'a\\x1bb'")
    """
    if os.name == "nt":
        return subprocess.list2cmdline([word])
    if printable(word) == word and "\n" not in word:
        return shlex.quote(word)
    plain = lambda byte: 0x20 <= byte < 0x7F and byte not in b"\\'"
    escaped = [chr(byte) if plain(byte) else f"\\x{byte:02x}" for byte in os.fsencode(word)]
    return f"$'{''.join(escaped)}'"


def show(path: Path | str) -> str:
    """A path as it would be typed: relative when it lies below the working directory.

    >>> show(Path.cwd() / "runs" / "a"), show("/etc/passwd")
    ('runs/a', '/etc/passwd')
    """
    try:
        found = Path(os.path.realpath(path))
    except (OSError, ValueError):  # a NUL in the name
        return str(path)
    here = _here()
    return str(found.relative_to(here)) if here is not None and found.is_relative_to(here) else str(found)


def _here() -> Path | None:
    """The working directory; None if it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return None
