"""Polynomial and linear decay."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules.arguments import check_part, check_run
from jaxopt_mini.schedules.shapes import POWERS, decay


def polynomial(peak: ArrayLike, total_steps: int, *, power: ArrayLike = 2.0, floor: ArrayLike = 0.0) -> Schedule:
    """Polynomial decay from ``peak`` to ``floor * peak``.

    The learning rate is ``peak (floor + (1 - floor) (1 - t / total_steps)^power)``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: count at which the floor is reached; the last step of the run is one before it.
      power: 1 is linear; higher powers decay faster at first.
      floor: final fraction of the peak, in [0, 1].

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> polynomial(1.0, 10, power=2)(5).item()
    0.25
    """
    check_run(peak, total_steps)
    check_nonnegative(power=power)
    check_part(floor=floor)
    return decay(peak, total_steps, POWERS["power"](power), floor)


def linear(peak: ArrayLike, total_steps: int, *, floor: ArrayLike = 0.0) -> Schedule:
    """Linear decay from ``peak`` to ``floor * peak``.

    torch's ``LinearLR(1, end_factor, total_iters)`` is ``linear(peak, total_iters, floor=end_factor)``; a rising one is
    :func:`~jaxopt_mini.schedules.warmup_constant`.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: count at which the floor is reached; the last step of the run is one before it.
      floor: final fraction of the peak, in [0, 1].

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> linear(1.0, 10)(5).item()
    0.5
    """
    return polynomial(peak, total_steps, power=1.0, floor=floor)
