"""The one error that a person caused and a person can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a word, a number or a file; the command line prints it as one line and exits with status 2."""


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
