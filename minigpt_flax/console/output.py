"""``--quiet`` and ``--json``: what a command says on the standard output. Imports no JAX."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.text import printable


@dataclass(frozen=True)
class Output:
    """How a command answers.

    Attributes:
      quiet: say no more than what was asked for.
      json: say it as one record of JSON a line.
    """

    quiet: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        """Refuses both at once."""
        if self.quiet and self.json:
            raise UserError("--quiet and --json: --json says nothing but records anyhow; leave one out")

    @property
    def human(self) -> bool:
        """Whether a person wants to be told what goes on."""
        return not (self.quiet or self.json)

    def result(self, text: str, record: dict[str, Any]) -> None:
        """Prints the result."""
        tell(line(record) if self.json else text)

    def note(self, text: str, record: dict[str, Any]) -> None:
        """Prints what came of it, where the result itself is a file."""
        if not self.quiet:
            self.result(text, record)


def tell(text: str, end: str = "\n", file: Any = None) -> None:
    """Prints text that may hold names and words of others: control characters are escaped. None: standard output."""
    print(printable(text), end=end, file=file, flush=True)


def declare(parser: argparse._ActionsContainer) -> None:
    """Adds the two flags."""
    parser.add_argument("--quiet", action="store_true", help="print only the result (errors still go to stderr)")
    parser.add_argument("--json", action="store_true", help="print records instead, one line of JSON each")


def line(record: dict[str, Any]) -> str:
    """A record as one line of JSON; what isn't finite is null."""
    return json.dumps(_finite(record), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
