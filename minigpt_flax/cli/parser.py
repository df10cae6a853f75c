"""The command line of training: every field of ``RunConfig`` is a flag.

Imports no JAX, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

from minigpt_flax.bounds import STEP, number, whole
from minigpt_flax.console import output
from minigpt_flax.console.output import Output, tell
from minigpt_flax.errors import UserError, check_name, nearest
from minigpt_flax.invocation import line
from minigpt_flax.train.config.run_config import PRESET_NOTES, PRESETS, RunConfig, flag_of

COLUMNS = 80
FREE = "TEXT"  # metavar of a flag whose value may be empty
AUTO = "auto"  # of --resume
LINES = {
    "": "the preset of this machine",
    "--preset demo": "a minute or two on a laptop",
    "--opt lion --schedule wsd": "other rules",
    '--opt "adamw(b2=0.95)" --lr 3e-3 --name mine': "",
    '--data book.txt --tokenizer "bpe(vocab_size=512)"': "",
    "--resume runs/mine": "go on where it stopped",
}
WORDS = """A WORD is a name or "name(key=value, ...)": --list shows the names, --explain
NAME what one is and takes. [In brackets: what holds if you leave a flag out.]"""


@dataclass(frozen=True)
class Request:
    """What was typed.

    Attributes:
      given: fields of ``RunConfig`` that were set.
      preset: None lets the device choose.
      out: folder that holds the runs.
      name: folder of the run in ``out``; None makes one up.
      resume: folder of a run to continue; ``auto`` is ``out/name`` if that holds one.
      multihost: how this process finds the others of the run; None means that it is the only one.
      stop_after: end early, as if asked, after this many steps.
      compile_cache: folder of what is compiled, or none; None takes the user's.
      profile: FIRST:LAST, the steps to trace.
      watch: draw the curves in the terminal.
      list: show the names instead of training.
      explain: show what this name is instead of training.
      output: how it answers.
    """

    given: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    out: str = "runs"
    name: str | None = None
    resume: str | None = None
    multihost: str | None = None
    stop_after: int | None = None
    compile_cache: str | None = None
    profile: str | None = None
    watch: bool = False
    list: bool = False
    explain: str | None = None
    output: Output = Output()


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that takes no abbreviations, prints 80 columns and raises ``UserError``.

    A flag that is given twice is reported on stderr, unless it collects its values; scripts override their own defaults
    that way. Values that are empty or not UTF-8 are refused.
    """

    def __init__(self, **settings: Any):
        settings = {"formatter_class": _format, "allow_abbrev": False, **settings}
        super().__init__(**settings)
        self._seen: set[str] = set()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses what it knows; see ``argparse``."""
        self._seen = set()
        return super().parse_known_args(args, namespace)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Reads the values of one occurrence of an argument."""
        if isinstance(action, argparse._SubParsersAction):  # these are arguments of a command, whose parser checks them
            return super()._get_values(action, arg_strings)
        name = "/".join(action.option_strings) or str(action.metavar)
        if arg_strings == ["--"] and action.nargs is None:  # which argparse would leave out
            self.error(f"{name} expects a value, got '--'")
        if action.option_strings and not isinstance(action, argparse._AppendAction):
            if action.dest in self._seen:
                _repeated.append(f"{self.prog}: {name} is given twice; the last value is used")
            self._seen.add(action.dest)
        for text in arg_strings:
            if not text and action.metavar != FREE:
                self.error(f"{name} is empty: give a value or leave it out")
            if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
                self.error(f"{name} {ascii(text)} is not UTF-8 text")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        text = message.removeprefix("argument ").replace(": must be", " must be", 1)
        raise UserError(f"{text}; see --help")

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """Parses all of ``arguments``.

        Raises:
          UserError: an unknown flag, with the nearest, or a value of the wrong type.
        """
        _repeated.clear()
        known, unknown = self.parse_known_args(_joined(arguments))
        if unknown:
            flags = self.flags(arguments)
            raise UserError(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)}; see --help")
        return vars(known)

    def flags(self, arguments: Collection[str]) -> list[str]:
        """The flags that these arguments could have: its own, and those of the command that they name."""
        found = [flag for action in self._actions for flag in action.option_strings]
        commands = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        for named in (parsers[name] for parsers in commands for name in arguments if name in parsers):
            return found + named.flags(())
        return found


_repeated: list[str] = []


def tell_repeated() -> None:
    """Reports on stderr which flags were given twice; called when the command line is known to be right."""
    while _repeated:
        tell(_repeated.pop(0), file=sys.stderr)


def _format(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=COLUMNS)


def _joined(arguments: list[str]) -> list[str]:
    """Writes ``--lr -1e-3`` as ``--lr=-1e-3``: argparse takes a negative number with an exponent for a flag."""
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


READERS: dict[type, Callable[[str], Any]] = {int: whole, float: number, str: str}


def parser() -> Parser:
    """Builds the parser of ``train.py``."""
    build = Parser(prog="train.py")
    declare(build)
    return build


def declare(build: Parser) -> None:
    """Adds the arguments: those of a sitting, then the fields of ``RunConfig``."""
    typed = line("train")
    lines = "\n".join(f"  {f'{typed} {flags}':47s}  {note}".rstrip() for flags, note in LINES.items())
    presets = "\n".join(f"  {name:11s} {note}" for name, note in PRESET_NOTES.items())
    build.usage = f"{typed} [--flag VALUE ...]"
    build.description = f"Train a GPT. Common lines:\n\n{lines}\n\npresets (--preset NAME):\n{presets}\n\n{WORDS}"
    run = build.add_argument_group("run")
    run.add_argument("--preset", metavar="NAME", help="what all other flags start from [by device]")
    run.add_argument("--out", default="runs", metavar="DIR", help="folder that holds the runs [runs]")
    run.add_argument("--name", metavar="NAME", help="the run's folder is OUT/NAME [made up]")
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder; flags that alter the numbers must agree; auto: OUT/NAME if it is a run, "
        "else start it",
    )
    run.add_argument(
        "--multihost", metavar="WHO", help="several processes: auto, or coordinator=HOST:PORT,processes=N,process=I"
    )
    run.add_argument("--stop-after", type=STEP, metavar="STEP", help="save and stop after this step of the run")
    run.add_argument("--compile-cache", metavar="DIR", help="keep what is compiled here, or none [user's cache]")
    run.add_argument("--profile", metavar="A:B", help="trace steps A to B with JAX's profiler")
    run.add_argument("--watch", action="store_true", help="draw the curves in the terminal while it trains")
    run.add_argument("--list", action="store_true", help="show every name that a flag takes, and stop")
    run.add_argument("--explain", metavar="NAME", help="show what a name is and takes, and stop")
    output.declare(run)
    add_fields(build)


def add_fields(build: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Adds the flag of every field of ``RunConfig`` but those in ``without``."""
    types = typing.get_type_hints(RunConfig)
    groups: dict[str, Any] = {}
    for item in dataclasses.fields(RunConfig):
        if item.name not in without:
            title = item.metadata["group"]
            if title not in groups:
                groups[title] = build.add_argument_group(title)
            _add(groups[title], item, types[item.name])


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Takes the fields of ``RunConfig`` that were typed out of ``values``, which keeps the rest."""
    fields = {f.name: values.pop(f.name) for f in dataclasses.fields(RunConfig) if f.name in values}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items() if v is not None}


def _add(group: Any, item: dataclasses.Field, kind: Any) -> None:
    """Adds the flag of a field; a flag that isn't given is None."""
    text = f"{item.metadata['help']}{_default(item)}".replace("%", "%%")
    flag, metavar = flag_of(item.name), item.metadata["metavar"]
    inner = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)] or [kind]
    if kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif typing.get_origin(kind) is tuple:
        group.add_argument(flag, action="append", type=READERS[inner[0]], metavar=metavar, help=text)
    else:
        group.add_argument(flag, type=READERS[inner[0]], metavar=metavar, help=text)


def _default(item: dataclasses.Field) -> str:
    if item.metadata["help"].endswith("]"):
        return ""
    if any(item.name in preset for preset in PRESETS.values()):
        return " [preset's]"
    if isinstance(item.default, bool):
        return f" [{'yes' if item.default else 'no'}]"
    default = ", ".join(item.default) if isinstance(item.default, tuple) else item.default
    return "" if default in (None, "") else f" [{default}]"


def requested(values: dict[str, Any]) -> Request:
    """What was typed, out of what the parser read.

    Raises:
      UserError: an unknown preset, or ``--resume auto`` without a name.
    """
    if values["preset"] is not None:
        check_name(values["preset"], PRESETS, "preset")
    if values["resume"] == AUTO and values["name"] is None:
        raise UserError(f"--resume {AUTO} continues the run OUT/NAME or starts it: give its --name")
    how = Output(values.pop("quiet"), values.pop("json"))
    return Request(given=given_fields(values), output=how, **values)
