"""Errors that the command line prints as one line: a user's mistake, or a failure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An invalid spec, number or file; the command line prints one line and exits with status 2."""


class Failed(Exception):
    """A valid request that can't be completed; the command line prints one line and exits with status 1."""


class TrainingFailed(Failed):
    """A run can't continue; its checkpoints are intact."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the command, or the reader of its output closed the pipe; the exit status is 128 + ``number``.

    Args:
      number: signal number.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class CheckpointError(TrainingFailed):
    """A checkpoint could not be written; earlier checkpoints are intact."""


class Diverged(TrainingFailed):
    """The loss, a gradient or a parameter is not finite.

    Args:
      message: the value that is not finite.
      step: the step that diverged, if the steps before it are known to be intact.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step


def damaged(name: str, error: Exception) -> UserError:
    """The error of a file that a library can't read, with the library's reason in one line.

    >>> damaged("a.parquet", ValueError("no footer"))
    UserError('a.parquet is damaged: no footer')
    """
    return UserError(f"{name} is damaged: {' '.join(str(error).split()):.200}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name nearest to ``word``, or an empty string.

    >>> nearest("adanw", ["adam", "adamw", "lion"])
    " (did you mean 'adamw'?)"
    >>> nearest("beta2", ["b1", "b2", "weight_decay"])
    " (did you mean 'b2'?)"
    >>> nearest("zzz", ["adam"])
    ''
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.55)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_name(name: str, names: Iterable[str], kind: str) -> str:
    """Return ``name`` if it is one of ``names``.

    Raises:
      UserError: it isn't; the message lists the names and suggests the nearest.
    """
    names = list(names)
    if name not in names:
        raise UserError(f"no {kind} is called {name!r}{nearest(name, names)}; there are: {', '.join(names)}")
    return name
