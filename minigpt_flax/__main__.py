"""The command ``minigpt``, or ``python -m minigpt_flax``. JAX is imported only by what needs it."""

import sys
from functools import partial

from minigpt_flax import completion, installed
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invoked import line, program
from minigpt_flax.lab import compare, diagnose, eval, export, prepare, report, sample
from minigpt_flax.train import command as train, xla
from minigpt_flax.train.cli import Parser, guarded, leave
from minigpt_flax.train.processes import tell_failure

COMMANDS = {
    "train": train,
    "sample": sample,
    "eval": eval,
    "export": export,
    "compare": compare,
    "report": report,
    "diagnose": diagnose,
    "prepare": prepare,
    "completion": completion,
}


def parser() -> Parser:
    """Builds the parser: each command's module declares its own arguments."""
    build = Parser(prog=line("").strip(), description="Train a GPT, and work with the runs that this makes.")
    build.add_argument("--version", action="version", version=f"{installed.PACKAGE} {installed.own_version()}")
    commands = build.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY)
        module.declare(command)
        command.set_defaults(run=module.run)
    return build


def main(arguments: list[str] | None = None) -> int:
    """Does what the words say; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    return guarded(program(), lambda: run(words), partial(tell_failure, words))


def run(arguments: list[str]) -> int:
    """Parses, and runs the command."""
    installed.require()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        there = f"there are: {', '.join(COMMANDS)}"
        raise UserError(f"no command is called {arguments[0]!r}{nearest(arguments[0], COMMANDS)}; {there}")
    options = parser().parse(arguments or ["--help"])
    return options.pop("run")(**options)


def console() -> None:
    """What the installed ``minigpt`` calls."""
    xla.huge_pages()
    leave(main())


if __name__ == "__main__":
    console()
