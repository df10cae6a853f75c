"""The errors that the command line prints as one line: a user's mistake, or a run that can't continue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a word, a number or a file; the command line prints it as one line and exits with status 2."""


class Failed(Exception):
    """What was asked for correctly can't be done; the command line prints it as one line and exits with status 1."""


class Interrupted(KeyboardInterrupt):
    """A signal ended a command, or the reader of its output left; the exit status is 128 + the signal.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class Unsaved(Failed):
    """A checkpoint could not be written; those before it are intact."""


class Diverged(Failed):
    """The loss, a gradient or a parameter is not finite.

    Args:
      message: what is not finite.
      step: the step that diverged, where those before it are known to be intact.
    """

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the known word nearest to ``word``, or an empty string.

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
    """Returns ``name`` if it is one of ``names``.

    Raises:
      UserError: it isn't; the message lists them and the nearest.
    """
    names = list(names)
    if name not in names:
        raise UserError(f"no {kind} is called {name!r}{nearest(name, names)}; there are: {', '.join(names)}")
    return name
