"""What one does with runs: ``python -m minigpt_flax COMMAND``. JAX is imported only by what needs it."""

import sys

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.lab import compare, diagnose, eval, export, prepare, report, sample
from minigpt_flax.train.cli import Parser, guarded

COMMANDS = {
    "sample": sample,
    "eval": eval,
    "export": export,
    "compare": compare,
    "report": report,
    "diagnose": diagnose,
    "prepare": prepare,
}


def parser() -> Parser:
    """Builds the parser: each command's module declares its own arguments."""
    build = Parser(prog="python -m minigpt_flax", description="Work with the runs that train.py made.")
    commands = build.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.declare(command)
        command.set_defaults(run=module.run)
    return build


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    return guarded("minigpt_flax", lambda: run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Parses, and runs the command."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        there = f"there are: {', '.join(COMMANDS)}"
        raise UserError(f"no command is called {arguments[0]!r}{nearest(arguments[0], COMMANDS)}; {there}")
    options = parser().parse(arguments)
    return options.pop("run")(**options)


if __name__ == "__main__":
    sys.exit(main())
