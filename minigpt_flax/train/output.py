"""``--quiet`` and ``--json``: what a command says on the standard output. Imports no JAX."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from minigpt_flax.errors import UserError


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
        """Prints what was asked for."""
        print(line(record) if self.json else text, flush=True)

    def note(self, text: str, record: dict[str, Any]) -> None:
        """Prints what came of it, where the result itself is a file."""
        if not self.quiet:
            self.result(text, record)


def declare(parser: argparse._ActionsContainer) -> None:
    """Adds the two flags."""
    parser.add_argument("--quiet", action="store_true", help="print no more than the result; mistakes as ever")
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
