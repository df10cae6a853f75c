"""The page of all commands and flags, from the parsers themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from docs.catalog import HEAD, table
from minigpt_flax import __main__ as minigpt
from minigpt_flax.cli.parser import SPECS
from minigpt_flax.train.config.presets import PRESET_NOTES

TITLES = {"train": "python train.py", "coordinates": "minigpt diagnose coordinates"}
INTRODUCTION = """\
Every command and every flag, as `--help` prints them. In a checkout, training is `python train.py`; everything else is
`python -m minigpt_flax COMMAND`, or `minigpt COMMAND` once the package is installed. `minigpt train` is `train.py`.
"""


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    actions = minigpt.parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


def page() -> str:
    """The page of flags."""
    return "\n".join(
        [f"{HEAD}# Command line\n\n{INTRODUCTION}", *(map(command, *zip(*commands().items(), strict=True)))]
    )


def command(name: str, parser: argparse.ArgumentParser) -> str:
    """A command: its summary, and its flags group by group."""
    title = TITLES.get(name, f"minigpt {name}")
    summary = minigpt.import_module(minigpt.COMMANDS[name]).SUMMARY
    parts = [f"## {title}\n\n{summary}\n", *([specs()] if name == "train" else [])]
    parts.append(f"```{{program}} {title}\n```\n")
    for group in parser._action_groups:
        flags = list(options(parser, group))
        if flags and group.title not in ("options", "positional arguments"):
            parts.append(f"### {str(group.title).capitalize()}: {name}\n")
        parts += flags
    return "\n".join(parts)


def specs() -> str:
    """How to write a SPEC, and the presets."""
    presets = table(("preset", "what it trains"), (f"`{name}` | {note}" for name, note in PRESET_NOTES.items()))
    return coded(f"{SPECS}\n{presets}")


def options(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    """The entries of a group's flags and arguments."""
    for action in group._group_actions:
        if action.help is argparse.SUPPRESS or action.dest == "help":
            continue
        value = f" {metavar(action)}" if action.nargs != 0 else ""
        name = ", ".join(f"{flag}{value}" for flag in action.option_strings) or metavar(action)
        help_text = " ".join(str((action.help or "") % {"prog": "minigpt", **vars(action)}).split())
        yield f"````{{option}} {name}\n{escaped(help_text)}\n````\n"


def metavar(action: argparse.Action) -> str:
    """The placeholder of a value."""
    return str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())


def escaped(text: str) -> str:
    r"""Help text as Markdown: flags as code, everything else as it stands.

    >>> escaped("a larger --steps [2000]")
    'a larger `--steps` \\[2000]'
    """
    return coded(re.sub(r"([*_\[<$|])", r"\\\1", text))


def coded(text: str) -> str:
    """The text with flags as code."""
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", text)
