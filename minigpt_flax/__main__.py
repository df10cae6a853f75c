"""The command ``minigpt``, or ``python -m minigpt_flax``. JAX is imported only by what needs it."""

from __future__ import annotations

import sys
from importlib import import_module

from minigpt_flax.cli import early

TYPE_CHECKING = False  # without the import of `typing`, which a Ctrl-C might hit
if TYPE_CHECKING:
    from minigpt_flax.cli.parser import Parser

COMMANDS = {  # modules with SUMMARY, declare and run
    "train": "minigpt_flax.cli.train",
    "sample": "minigpt_flax.cli.sample",
    "eval": "minigpt_flax.cli.evaluate",
    "export": "minigpt_flax.cli.export",
    "compare": "minigpt_flax.cli.compare",
    "report": "minigpt_flax.cli.report",
    "diagnose": "minigpt_flax.cli.diagnose",
    "prepare": "minigpt_flax.cli.prepare",
    "completion": "minigpt_flax.cli.completion",
}


def parser() -> Parser:
    """Builds the parser: each command's module declares its own arguments."""
    from minigpt_flax.cli import installed
    from minigpt_flax.cli.parser import Parser
    from minigpt_flax.invocation import line

    build = Parser(prog=line("").strip(), description="Train a GPT, and work with the runs that this makes.")
    build.add_argument("--version", action="version", version=f"{installed.PACKAGE} {installed.own_version()}")
    commands = build.add_subparsers(metavar="COMMAND", required=True)
    for name, module in ((name, _module(name)) for name in COMMANDS):
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.declare(command)
        command.set_defaults(run=module.run)
    return build


def _module(command: str):
    return import_module(COMMANDS[command])


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    from minigpt_flax.cli import entry
    from minigpt_flax.invocation import program

    words = sys.argv[1:] if arguments is None else arguments
    return entry.guarded(program(), lambda: run(words), words[0] if words else "", words)


def run(arguments: list[str]) -> int:
    """Parses, and runs the command."""
    from minigpt_flax.cli import installed
    from minigpt_flax.cli.parser import tell_repeated
    from minigpt_flax.errors import UserError, nearest
    from minigpt_flax.train import memory

    installed.require()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        there = f"there are: {', '.join(COMMANDS)}"
        raise UserError(f"no command is called {arguments[0]!r}{nearest(arguments[0], COMMANDS)}; {there}")
    options = parser().parse(arguments or ["--help"])
    memory.require_address_space()
    status = options.pop("run")(**options)
    tell_repeated()
    return status


def console() -> None:
    """What the installed ``minigpt`` calls."""
    early.start(main)


if __name__ == "__main__":
    console()
