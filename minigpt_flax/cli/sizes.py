"""Lists of widths or depths on the command line."""

from __future__ import annotations

import argparse

from minigpt_flax.bounds import Bound, whole
from minigpt_flax.errors import UserError
from minigpt_flax.text import shortened

SIZE = Bound(1, 1 << 20, whole=True)


def sizes(flag: str, text: str | None, example: str = "64,128,256") -> list[int] | None:
    """Parse a list of sizes, such as ``64,128,256``; None stays None.

    Args:
      flag: the flag, for the error.
      text: as typed.
      example: what the flag takes, for the error.

    Raises:
      UserError: it is none, or not in ascending order.
    """
    if text is None:
        return None
    try:
        found = list(map(whole, text.split(",")))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{flag}: {error}") from error
    for size in found:
        SIZE.check(f"{flag}: each size", size)
    if len(found) < 2 or found != sorted(set(found)):
        raise UserError(f"{flag} expects ascending sizes such as {example}, got {shortened(repr(text), 100)}")
    return found
