"""What ``compare`` and ``tune`` share: the flags of their execution, and how these are read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser
from minigpt_flax.errors import check_name
from minigpt_flax.invocation import line
from minigpt_flax.text import tell
from minigpt_flax.train.config.presets import PRESETS, default_preset
from minigpt_flax.train.config.run_config import flag_of


def declare_execution(parser: Parser, study: str, *, named_by: str, together: str, share: str) -> None:
    """Adds the flags of the execution.

    Args:
      parser: of the command.
      study: what the command trains, in help texts: a "comparison" or a "tuning".
      named_by: what the name of its folder is made of.
      together: the runs that ``--vmap`` trains in one program.
      share: what ``--share`` divides.
    """
    add = parser.add_argument_group("execution").add_argument
    add("--preset", metavar="NAME", help="default values of all other flags [by device]")
    add("--out", metavar="DIR", help=f"folder that holds the {study} [runs]")
    add("--name", metavar="NAME", help=f"the {study}'s folder is OUT/NAME [by {named_by}]")
    add("--resume", metavar="FOLDER", help=f"continue this {study}; repeating the command does too")
    add("--vmap", action="store_true", help=f"train the {together} together, in one program")
    add("--trust", action="store_true", help=f"execute the optimizer code that a resumed {study} names")
    add("--jobs", type=Bound(1, 1024, whole=True), metavar="N", help="parallel processes on this machine [1]")
    add("--share", metavar="I/N", help=f"train {share}, from 0: for N hosts with one folder")


def preset_of(name: str | None) -> str:
    """Returns the preset that ``--preset`` names, or the default one of the device.

    Raises:
      UserError: there is no such preset.
    """
    if name is None:
        import jax  # takes seconds

        name = default_preset(jax.default_backend())
    return check_name(name, PRESETS, "preset")


def used_flags(typed: Mapping[str, Any], given: Mapping[str, Any]) -> set[str]:
    """Returns the flags that the command line sets, also those set to zero or switched off.

    Args:
      typed: values of the command's own flags; None, False or an empty list if a flag is not used.
      given: fields of the configuration that were set.

    >>> sorted(used_flags({"vmap": False, "opt": None, "budget": 2.0}, {"seed": 0, "tie_head": False}))
    ['--budget', '--seed', '--tie-head']
    """
    own = [name for name, value in typed.items() if value is not None and value is not False and value != []]
    return {flag_of(name) for name in (*own, *given)}


def progress_output(human: bool) -> AbstractContextManager:
    """Returns a context in which progress goes to standard output for a person, and to standard error otherwise."""
    return nullcontext() if human else redirect_stdout(sys.stderr)


def tell_share(share: str, *command: object) -> None:
    """Prints that the share of this host is done, and the command that collects all of them."""
    tell(f"share {share} is done; when all are, get the results with: {line(*command)}")
