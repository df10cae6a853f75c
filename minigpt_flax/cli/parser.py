"""The command line of training: every field of ``RunConfig`` is a flag.

Imports neither JAX nor NumPy, so that ``--help`` and errors appear at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

from minigpt_flax.bounds import STEP, number, whole
from minigpt_flax.cli import compiled
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError, check_name, nearest
from minigpt_flax.invocation import line
from minigpt_flax.phases import Stepwise
from minigpt_flax.spec import Spec
from minigpt_flax.text import tell
from minigpt_flax.train.config.param_groups import ParamGroup
from minigpt_flax.train.config.presets import ACCELERATOR, CPU, PRESET_NOTES, PRESETS
from minigpt_flax.train.config.run_config import FIELDS, GROUPS, RunConfig, flag_of

COLUMNS = 80
FREE = "TEXT"  # metavar of a flag whose value may be empty
EXAMPLES = {
    "": "default preset for the device",
    "--preset demo": "90 seconds on a laptop",
    "--opt lion --schedule wsd": "another optimizer",
    '--opt "adamw(b2=0.95)" --lr 3e-3 --name mine': "",
    '--data book.txt --tokenizer "bpe(vocab_size=512)"': "",
    "--opt my_optimizer.py:factory": "your own optimizer",
    "--resume runs/mine": "continue a run",
}
SPECS = f"""A SPEC is a name or "name(key=value, ...)". --list prints all names, --explain
NAME documents one and its keywords.

Defaults are in brackets: those of {CPU}, the default preset on a CPU; after
"{ACCELERATOR}:" those of {ACCELERATOR}, the default preset on a GPU or TPU, where they differ.
"""


@dataclass(frozen=True)
class Request:
    """The parsed command line of ``train``.

    Attributes:
      given: fields of ``RunConfig`` that were set.
      preset: None selects the default preset of the device.
      out: folder that holds the runs.
      name: folder of the run in ``out``; None derives one from preset, optimizer and seed.
      resume: folder of a run to continue; ``auto`` is ``out/name`` if that holds one.
      multihost: how this process finds the others of the run; None if it is the only one.
      stop_after: save and stop after this step.
      compile_cache: folder of compiled programs, or ``none``; None uses the user's cache.
      trust: execute code that the folder of a run names.
      change: a resumed run may change settings that affect the numbers.
      profile: FIRST:LAST, the steps to trace.
      watch: draw the curves in the terminal.
      list: print the names instead of training.
      explain: document this name instead of training.
      output: format of the output.
      notices: returns lines for the run to print at its start; see :meth:`Parser.take_repeated`.
    """

    given: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    out: str = "runs"
    name: str | None = None
    resume: str | None = None
    multihost: str | None = None
    stop_after: int | None = None
    compile_cache: str | None = None
    trust: bool = False
    change: bool = False
    profile: str | None = None
    watch: bool = False
    list: bool = False
    explain: str | None = None
    output: Output = Output()
    notices: Callable[[], tuple[str, ...]] = tuple


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """80 columns; ``--[no-]bias`` for a pair of flags, and no line break at a hyphen."""

    def __init__(self, prog: str, **settings: Any):
        super().__init__(prog, max_help_position=26, width=COLUMNS)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return action.option_strings[0].replace("--", "--[no-]", 1)
        return super()._format_action_invocation(action)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that accepts no abbreviations, prints 80 columns and raises ``UserError``.

    Values that are empty or not UTF-8 are refused.

    Attributes:
      repeated: a line for each flag that was given twice and doesn't collect its values. That is no error, as scripts
        override their own defaults this way.
    """

    def __init__(self, **settings: Any):
        super().__init__(**{"formatter_class": HelpFormatter, "allow_abbrev": False, **settings})
        self.repeated: list[str] = []
        self._seen: set[str] = set()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses the known arguments and returns the others too; see ``argparse``."""
        self._seen = set()
        return super().parse_known_args(args, namespace)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Reads the values of one occurrence of an argument."""
        if isinstance(action, argparse._SubParsersAction):  # the command's own parser checks its arguments
            for command in action.choices.values():
                command.repeated = self.repeated
            return super()._get_values(action, arg_strings)
        name = "/".join(action.option_strings) or str(action.metavar)
        if arg_strings == ["--"] and action.nargs is None:  # argparse would drop it
            self.error(f"{name} expects a value, got '--'")
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            if action.dest in self._seen:
                self.repeated.append(f"{self.prog}: {name} is given twice; the last value is used")
            self._seen.add(action.dest)
        for text in arg_strings:
            if not text and action.metavar != FREE:
                self.error(f"{name} is empty: give a value or omit it")
            if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
                self.error(f"{name} {ascii(text)} is not UTF-8 text")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raises ``UserError`` instead of printing the usage."""
        text = message.removeprefix("argument ").replace(": must be", " must be", 1)
        raise UserError(f"{text}; see --help")

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """Parses all of ``arguments``.

        Raises:
          UserError: an unknown flag, with the nearest, or a value of the wrong type.
        """
        self.repeated.clear()
        values, unknown = self.parse_known_args(_joined(arguments))
        if unknown:
            flags = self.flags(arguments)
            raise UserError(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)}; see --help")
        return vars(values)

    def take_repeated(self) -> tuple[str, ...]:
        """Returns the lines of ``repeated`` and clears it."""
        lines = tuple(self.repeated)
        self.repeated.clear()
        return lines

    def report_repeated(self) -> None:
        """Prints the lines of ``repeated`` to stderr; call it after the command, which checks its arguments first."""
        for text in self.take_repeated():
            tell(text, file=sys.stderr)

    def flags(self, arguments: Collection[str]) -> list[str]:
        """The flags that these arguments may contain: the parser's own, and those of the command that they name."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        commands = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        for named in (parsers[name] for parsers in commands for name in arguments if name in parsers):
            return flags + named.flags(())
        return flags


def _joined(arguments: list[str]) -> list[str]:
    """Writes ``--lr -1e-3`` as ``--lr=-1e-3``: argparse reads a negative number with an exponent as a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and _is_negative(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _is_negative(text: str) -> bool:
    try:
        return text.startswith("-") and float(text) <= 0
    except ValueError:
        return False


READERS: dict[type, Callable[[str], Any]] = {int: whole, float: number, str: str, Spec: str, ParamGroup: str}


def parser() -> Parser:
    """Builds the parser of ``train.py``."""
    build = Parser(prog="train.py")
    declare(build)
    return build


def declare(build: Parser) -> None:
    """Adds the flags of one start, then the fields of ``RunConfig``."""
    typed = line("train")
    examples = "\n".join(f"  {f'{typed} {flags}':47s}  {note}".rstrip() for flags, note in EXAMPLES.items())
    presets = "\n".join(f"  {name:11s} {note}" for name, note in PRESET_NOTES.items())
    build.usage = f"{typed} [--flag VALUE ...]"
    build.description = f"Train a GPT. Examples:\n\n{examples}\n\npresets (--preset NAME):\n{presets}\n\n{SPECS}"
    run = build.add_argument_group("run")
    run.add_argument("--preset", metavar="NAME", help="default values of all other flags [by device]")
    run.add_argument("--out", default="runs", metavar="DIR", help="folder that holds the runs [runs]")
    run.add_argument("--name", metavar="NAME", help="the run's folder is OUT/NAME [PRESET-OPT-SEED]")
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder, or extend it with a larger --steps; flags that affect the numbers must "
        "agree. auto: continue OUT/NAME if it is a run, else start it",
    )
    run.add_argument("--trust", action="store_true", help="execute the optimizer code that a resumed run names")
    run.add_argument(
        "--change",
        action="store_true",
        help="let --resume change lr, schedule, clip, dropout, val-tokens, dtype, keywords of opt",
    )
    run.add_argument(
        "--multihost", metavar="PEERS", help="several processes: auto, or coordinator=HOST:PORT,processes=N,process=I"
    )
    run.add_argument("--stop-after", type=STEP, metavar="STEP", help="save and stop after this step")
    compiled.declare(run)
    run.add_argument("--profile", metavar="A:B", help="trace steps A to B with JAX's profiler")
    run.add_argument("--watch", action="store_true", help="draw the curves in the terminal during training")
    run.add_argument("--list", action="store_true", help="list the names that each flag accepts, and exit")
    run.add_argument("--explain", metavar="NAME", help="print the documentation of a name, and exit")
    output.declare(run)
    build.set_defaults(notices=build.take_repeated)
    add_fields(build)


def add_fields(build: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds the flag of every field of ``RunConfig`` but those in ``without``."""
    types = typing.get_type_hints(RunConfig)
    groups = {title: build.add_argument_group(title) for title in GROUPS}
    for name, item in FIELDS.items():
        if name not in without:
            _add(groups[item.metadata["group"]], item, types[name])


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Moves the fields of ``RunConfig`` that were set out of ``values``, which keeps the others."""
    fields = {name: values.pop(name) for name in FIELDS if name in values}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items() if v is not None}


def _add(group: Any, item: dataclasses.Field, kind: Any) -> None:
    """Adds the flag of a field; its value is None unless it is given."""
    text = f"{item.metadata['help']}{_default(item)}".replace("%", "%%")
    flag, metavar = flag_of(item.name), item.metadata["metavar"]
    inner = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)] or [kind]
    if Stepwise in inner:
        group.add_argument(flag, type=_size, metavar=metavar, help=text)
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif typing.get_origin(kind) is tuple:
        group.add_argument(flag, action="append", type=READERS[inner[0]], metavar=metavar, help=text)
    else:
        group.add_argument(flag, type=READERS[inner[0]], metavar=metavar, help=text)


def _size(text: str) -> int | str:
    """Reads a number; other text is parsed with the configuration."""
    try:
        return int(text)
    except ValueError:
        return text


def _default(item: dataclasses.Field) -> str:
    """The default in brackets, with that of the accelerators' preset where it differs."""
    if item.metadata["help"].endswith("]"):
        return ""
    usual, accelerator = (_spell(PRESETS[preset].get(item.name, item.default)) for preset in (CPU, ACCELERATOR))
    other = "" if accelerator == usual else f"; {ACCELERATOR}: {accelerator}"
    return f" [{usual}{other}]" if usual or other else ""


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def requested(values: dict[str, Any]) -> Request:
    """Returns the request that the values of the parser describe.

    Raises:
      UserError: an unknown preset, or ``--resume auto`` without a name.
    """
    if values["preset"] is not None:
        check_name(values["preset"], PRESETS, "preset")
    if values["resume"] == "auto" and values["name"] is None:
        raise UserError("--resume auto continues the run OUT/NAME or starts it: give its --name")
    output = Output(values.pop("quiet"), values.pop("json"))
    return Request(given=given_fields(values), output=output, **values)
