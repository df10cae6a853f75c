"""What every schedule checks about its arguments, and how it reads lengths of time."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

from jaxopt_mini.check import check_nonnegative

Duration: TypeAlias = int | float
"""Steps, or a fraction of the run if it is between 0 and 1."""


def check_run(peak: Any, total_steps: int) -> None:
    """Refuses a negative peak and a run without steps.

    Raises:
      ValueError: what was given, and what is possible.
    """
    check_nonnegative(peak=peak)
    if not total_steps >= 1:
        raise ValueError(f"total_steps={total_steps} is no run: give at least 1 step")


def check_part(**given: Any) -> None:
    """Refuses a number outside [0, 1], where the parts of a peak lie; a traced value passes through.

    Raises:
      ValueError: which argument was given what, and what is possible.
    """
    for name, value in given.items():
        if isinstance(value, Real) and not 0 <= float(value) <= 1:
            raise ValueError(f"{name}={value} is out of range: give a fraction of the peak in [0, 1]")


def steps_of(name: str, amount: Duration, total_steps: int) -> int | float:
    """Reads a length of time: a number of steps, or a fraction of the run if it is between 0 and 1.

    Args:
      name: what the caller calls it, for the message.
      amount: steps (>= 1, or 0 for none), or a fraction (0 < amount < 1), which is rounded down to whole steps.
      total_steps: length of the run.

    Returns:
      Steps, at most ``total_steps``.

    Raises:
      ValueError: it is negative or longer than the run.

    >>> steps_of("warmup", 100, 2000), steps_of("warmup", 0.05, 2000), steps_of("warmup", 0, 2000)
    (100, 100, 0)
    """
    if not amount >= 0:
        raise ValueError(f"{name}={amount} is negative: give steps, or a fraction of the run")
    if amount > total_steps:
        raise ValueError(
            f"{name}={amount} is longer than the run of {total_steps} steps: "
            f"give at most {total_steps} steps, or a fraction of the run between 0 and 1"
        )
    # The small addend makes 0.29 of 100 steps 29 in spite of 0.29 * 100 == 28.999999999999996.
    return math.floor(amount * total_steps + 1e-6) if 0 < amount < 1 else amount
