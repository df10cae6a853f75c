"""Commands and paths as a user can type them in the shell where this process was started."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from minigpt_flax.text import printable

PACKAGE = "jaxopt-mini"  # name of the distribution
ROOT = Path(__file__).resolve().parents[1]  # folder of the package
CONSOLE = "minigpt"  # console script of the distribution
MODULE = "minigpt_flax"
SCRIPTS = {"train": "train.py"}  # commands that also have a script in the repository


def program(started: str | None = None) -> str:
    """Return the name of this process in error messages.

    Args:
      started: path by which it was started; None means ``sys.argv[0]``.

    >>> program("/usr/bin/minigpt"), program("train.py"), program("minigpt_flax/__main__.py")
    ('minigpt', 'train.py', 'minigpt_flax')
    """
    path = Path(sys.argv[0] if started is None else started)
    if path.stem == CONSOLE:
        return CONSOLE
    return path.name if path.name in SCRIPTS.values() else MODULE


def line(command: str, *words: Path | str, started: str | None = None) -> str:
    """Return a command line that works in the shell where this process was started.

    Args:
      command: name of the command.
      *words: flags, values and paths, quoted as necessary.
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
    others = {os.path.realpath(entry) for entry in sys.path[1:]}  # the first entry is the folder of the script
    if str(ROOT) in others or ROOT == _here():
        return True
    from importlib.metadata import PackageNotFoundError, distribution  # takes 10 ms

    try:
        found = distribution(PACKAGE)
    except PackageNotFoundError:
        return False
    return Path(str(found.locate_file(""))).resolve() != ROOT  # else it is metadata beside the sources


def typed(word: Path | str) -> str:
    """Return a path as :func:`show` does, but never mistakable for a flag; other words are unchanged."""
    if not isinstance(word, Path):
        return word
    text = show(word)
    return f"./{text}" if text.startswith("-") else text


def quote(word: str) -> str:
    r"""Quote a word for a shell if necessary; control characters are escaped as Bash and Zsh read them.

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
    """Return a path as a user would type it: relative if it is below the working directory.

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
