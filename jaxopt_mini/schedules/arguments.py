"""Argument checks that schedules share, and durations in steps or fractions of the run."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

from jaxopt_mini.check import check_nonnegative

Duration: TypeAlias = int | float
"""A number of steps, or a fraction of the run if it is between 0 and 1."""


def check_run(peak: Any, total_steps: int) -> None:
    """Rejects a negative peak and a run without steps.

    Raises:
      ValueError: the value and the range it must be in.
    """
    check_nonnegative(peak=peak)
    if not total_steps >= 1:
        raise ValueError(f"total_steps={total_steps} is out of range: give at least 1 step")


def check_part(**arguments: Any) -> None:
    """Rejects fractions of the peak outside [0, 1]; traced values pass unchecked.

    Raises:
      ValueError: the argument, its value and the range it must be in.
    """
    for name, value in arguments.items():
        if isinstance(value, Real) and not 0 <= float(value) <= 1:
            raise ValueError(f"{name}={value} is out of range: give a fraction of the peak in [0, 1]")


def steps_of(name: str, amount: Duration, total_steps: int) -> int | float:
    """Converts a duration to steps: a number of steps, or a fraction of the run if it is between 0 and 1.

    Args:
      name: name of the argument, for the message.
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
    # The offset makes 0.29 of 100 steps 29, although 0.29 * 100 == 28.999999999999996.
    return math.floor(amount * total_steps + 1e-6) if 0 < amount < 1 else amount
