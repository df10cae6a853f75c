"""``train``: words in, a run out. What imports JAX is imported only here, when it is needed."""

from __future__ import annotations

from typing import Any

from minigpt_flax.cli import parser

SUMMARY = "Train a GPT."
declare = parser.declare


def run(**values: Any) -> int:
    """Shows names, or trains; returns the exit status.

    Raises:
      UserError: what was asked for can't be done.
    """
    request = parser.requested(values)
    if request.list or request.explain is not None:
        from minigpt_flax.cli.list_explain import show

        return show(request)
    from minigpt_flax.cli.fit import fit

    return fit(request)
