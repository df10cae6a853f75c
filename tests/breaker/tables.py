"""What the project has: commands and their flags, specs and their keywords, and a small line for every command."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

TEXT, DONE, HALF, OTHER = "text.txt", "runs/done", "runs/half", "runs/other"
VERSUS, TOKENS, EXPORT = "runs/versus", "tokens", "gpt2"
TINY = {  # of every command that trains
    "--data": TEXT,
    "--layers": "1",
    "--heads": "1",
    "--width": "8",
    "--context": "8",
    "--batch-size": "2",
    "--steps": "2",
    "--eval-every": "2",
    "--sample-tokens": "4",
}
Value = str | tuple[str, ...] | None


@dataclass(frozen=True)
class Line:
    """A command line that works: positional arguments, and flags with values: None for a switch, several to repeat."""

    places: tuple[str, ...] = ()
    flags: Mapping[str, Value] = field(default_factory=dict)


LINES = {
    "train": Line(flags={"--name": "new"}),
    "sample": Line((DONE,), {"--max-tokens": "4"}),
    "eval": Line((DONE,)),
    "export": Line((DONE,), {"--out": "exported"}),
    "compare": Line(flags={"--opt": ("sgd", "lion"), "--seeds": "3", "--name": "new"}),
    "report": Line((DONE,), {"--out": "page.html"}),
    "diagnose": Line((DONE,), {"--batches": "2", "--only": "optimizer"}),
    "prepare": Line((TEXT,), {"--out": "prepared"}),
    "completion": Line(("bash",)),
}


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command."""
    from minigpt_flax.__main__ import parser

    (found,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The flags of a command but ``--help``."""
    return (action for action in parser._actions if action.option_strings and action.dest not in ("help", "version"))


def places(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The positional arguments of a command."""
    return [action for action in parser._actions if not action.option_strings]


def takes_value(action: argparse.Action) -> bool:
    """Whether a flag is followed by a value."""
    return action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)


def is_number(action: argparse.Action) -> bool:
    """Whether the value is read as something else than text."""
    return action.type not in (None, str)


def line(command: str, more: Mapping[str, Value] | None = None, at: tuple[str, ...] | None = None) -> list[str]:
    """A line of ``command`` that works, changed by ``more`` flags and other positional arguments."""
    parser = commands()[command]
    usual = LINES.get(command, Line((DONE,) * len(places(parser))))
    known = {flag for action in flags(parser) for flag in action.option_strings}
    small = TINY if "--layers" in known else {}
    typed = {**small, **usual.flags, **(more or {})}
    words = [word for flag, value in typed.items() for word in _words(flag, value)]
    return [command, *(usual.places if at is None else at), *words]


def _words(flag: str, value: Value) -> list[str]:
    several = value if isinstance(value, tuple) else (value,)
    return [flag if one is None else f"{flag}={one}" for one in several]


@dataclass(frozen=True)
class Spec:
    """A row of a table that a flag takes: its name and the keywords that a user can set."""

    kind: str
    flag: str
    name: str
    keywords: tuple[str, ...]


def specs() -> list[Spec]:
    """Every row of every table."""
    from minigpt_flax.train.registry import REGISTRIES

    found = []
    for kind, entry in REGISTRIES.items():
        for name, row in entry.table.items():
            keywords = tuple(inspect.signature(row).parameters)[entry.leading :]
            found.append(Spec(kind, entry.flag, name, keywords))
    return found
