"""The command ``minigpt``, or ``python -m minigpt_flax``. Imports no JAX until a command needs it."""

from __future__ import annotations

import sys
from importlib import import_module

from minigpt_flax.cli import early

TYPE_CHECKING = False  # as `typing` takes a while to import, and a Ctrl-C during that prints a traceback
if TYPE_CHECKING:
    from minigpt_flax.cli.parser import Parser

COMMANDS = {  # each module has SUMMARY, declare and run
    "train": "minigpt_flax.cli.train",
    "sample": "minigpt_flax.cli.sample",
    "eval": "minigpt_flax.cli.evaluate",
    "export": "minigpt_flax.cli.export",
    "average": "minigpt_flax.cli.average",
    "compare": "minigpt_flax.cli.compare",
    "tune": "minigpt_flax.cli.tune",
    "report": "minigpt_flax.cli.report",
    "diagnose": "minigpt_flax.cli.diagnose",
    "coordinates": "minigpt_flax.cli.coordinates",
    "prepare": "minigpt_flax.cli.prepare",
    "completion": "minigpt_flax.cli.completion",
}


def parser() -> Parser:
    """Builds the parser: each command's module declares its own arguments."""
    from minigpt_flax import installed
    from minigpt_flax.cli.parser import Parser
    from minigpt_flax.invocation import PACKAGE, line

    build = Parser(prog=line("").strip(), description="Train a GPT, and work with trained runs.")
    build.add_argument("--version", action="version", version=f"{PACKAGE} {installed.own_version()}")
    commands = build.add_subparsers(metavar="COMMAND", required=True)
    for name, module in ((name, import_module(path)) for name, path in COMMANDS.items()):
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.declare(command)
        command.set_defaults(run=module.run)
    return build


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    from minigpt_flax.cli import entry
    from minigpt_flax.invocation import program

    arguments = sys.argv[1:] if arguments is None else arguments
    return entry.guarded(program(), lambda: run(arguments), arguments[0] if arguments else "", arguments)


def run(arguments: list[str]) -> int:
    """Parses the arguments and runs the command."""
    from minigpt_flax import installed
    from minigpt_flax.errors import check_name
    from minigpt_flax.train import memory

    installed.require()
    arguments = without_family(arguments)
    if arguments and not arguments[0].startswith("-"):
        check_name(arguments[0], COMMANDS, "command")
    build = parser()
    options = build.parse(arguments or ["--help"])
    memory.require_address_space()
    status = options.pop("run")(**options)
    build.report_repeated()
    return status


def without_family(arguments: list[str]) -> list[str]:
    """Strips ``diagnose`` from ``diagnose coordinates``: the study that needs no run is a command of its own."""
    return arguments[1:] if arguments[:2] == ["diagnose", "coordinates"] else arguments


def console() -> None:
    """The entry point of the installed ``minigpt``."""
    early.start(main)


if __name__ == "__main__":
    console()
