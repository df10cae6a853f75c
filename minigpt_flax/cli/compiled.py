"""``--compile-cache``: compiled programs of earlier commands, shared by all commands that run a model."""

from __future__ import annotations

import argparse
import sys

from minigpt_flax.text import tell


def declare(parser: argparse._ActionsContainer) -> None:
    """Adds the flag."""
    parser.add_argument("--compile-cache", metavar="DIR", help="folder of compiled programs, or none [user cache]")


def use(choice: str | None) -> None:
    """Enables the cache before the first compilation, or reports on stderr why it is unavailable.

    Raises:
      UserError: the folder is an empty string.
    """
    import jax

    from minigpt_flax.train import compile_cache

    problem = compile_cache.use(choice, jax.devices()[0].device_kind)
    if problem is not None:
        tell(problem, file=sys.stderr)
