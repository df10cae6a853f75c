"""Probes that compute the loss anew, as a program of their own: where they don't look, the step is as if without them.

Inside the step, though skipped, they slowed every one: by a tenth at the preset ``nano`` on two cores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from minigpt_flax.train.loss_probes import WORK, due
from minigpt_flax.train.probes import PROBES
from minigpt_flax.train.specs import parse


def costly(text: str) -> dict[str, Any] | None:
    """The keywords of such a probe by its word, those that it leaves out too; None of another probe.

    >>> costly("noise"), costly("ratios")
    ({'every': 200}, None)
    """
    word = parse(text, "probe")
    if word.name not in WORK:
        return None
    defaults = {p.name: p.default for p in inspect.signature(PROBES[word.name]).parameters.values()}
    return {name: value for name, value in {**defaults, **word.keywords}.items() if name != "view"}


class Look:
    """Calls the program in the steps in which one of its probes looks.

    Args:
      function: ``(state, batch) -> metrics``.
      periods: steps between two looks, of each probe.
    """

    def __init__(self, function: Callable[[Any, Any], dict], periods: Sequence[int]):
        self.function, self.periods = function, periods

    def __call__(self, step: int, state: Any, batch: Any) -> dict:
        """What they see of the step after ``step`` others; its state is not yet given away."""
        return self.function(state, batch) if any(due(step, every) for every in self.periods) else {}
