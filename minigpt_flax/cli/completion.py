"""``completion SHELL``: a script that completes commands, flags and the names that flags accept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from minigpt_flax import installed
from minigpt_flax.cli.parser import Parser
from minigpt_flax.errors import check_name
from minigpt_flax.invocation import CONSOLE
from minigpt_flax.train.config.presets import PRESETS

SUMMARY = "Print a shell completion script."
FOLDERS = ("RUN", "DIR", "FOLDER")  # metavars of folders
FILES = ("FILE", "SOURCE")  # metavars of files


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("shell", metavar="SHELL", help="bash, zsh, tcsh, fish or powershell")
    parser.epilog = (
        f"for bash:\n  {CONSOLE} completion bash > ~/.local/share/bash-completion/completions/{CONSOLE}\n"
        f'for zsh, in a folder of $fpath:\n  {CONSOLE} completion zsh > "${{fpath[1]}}/_{CONSOLE}"'
    )


def run(*, shell: str) -> int:
    """Prints the script.

    Raises:
      UserError: the shell is unknown, or shtab, which writes the script, is not installed.
    """
    installed.require("completion")
    import shtab

    from minigpt_flax.__main__ import parser

    check_name(shell, shtab.SUPPORTED_SHELLS, "shell")
    build = parser()
    build.prog = CONSOLE
    for action in _actions(build):
        _hint(action)
    print(shtab.complete(build, shell))
    return 0


def _actions(build: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields the arguments of a parser and of its commands."""
    for action in build._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _hint(action: argparse.Action) -> None:
    """Sets how an argument is completed: as a folder, a file, or one of a list of names."""
    import shtab

    from minigpt_flax.train.registry import REGISTRIES

    names = {registry.flag: list(registry.table) for registry in REGISTRIES.values()} | {"--preset": list(PRESETS)}
    for flag in action.option_strings:
        action.choices = names.get(flag, action.choices)
    if action.metavar in FOLDERS:
        action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
    elif action.metavar in FILES and not action.choices:
        action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
