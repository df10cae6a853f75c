"""``--quiet`` and ``--json``: what a command prints to standard output. Imports no JAX."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.text import tell


@dataclass(frozen=True)
class Output:
    """Format of a command's output.

    Attributes:
      quiet: print only the result.
      json: print JSON records, one per line.
    """

    quiet: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        """Refuses both at once."""
        if self.quiet and self.json:
            raise UserError("--quiet and --json exclude each other: --json prints only records anyway; omit one")

    @property
    def human(self) -> bool:
        """Whether to print progress and notes for a person."""
        return not (self.quiet or self.json)

    def result(self, text: str, record: dict[str, Any]) -> None:
        """Prints the result."""
        tell(line(record) if self.json else text)

    def note(self, text: str, record: dict[str, Any]) -> None:
        """Prints a note about a result that is a file."""
        if not self.quiet:
            self.result(text, record)


def declare(parser: argparse._ActionsContainer) -> None:
    """Adds the two flags."""
    parser.add_argument("--quiet", action="store_true", help="print only the result (errors still go to stderr)")
    parser.add_argument("--json", action="store_true", help="print records instead, one line of JSON each")


def line(record: dict[str, Any]) -> str:
    """Formats a record as one line of JSON; non-finite numbers become null."""
    return json.dumps(finite(record), allow_nan=False)


def finite(value: Any) -> Any:
    """A JSON value in which null replaces each non-finite number."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
