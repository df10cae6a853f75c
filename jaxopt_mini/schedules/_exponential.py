"""Exponential decay."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules.arguments import check_run
from jaxopt_mini.schedules.shapes import decay, shape_of


def exponential(peak: ArrayLike, total_steps: int, *, floor: ArrayLike = 0.01) -> Schedule:
    """Exponential decay from ``peak`` to ``floor * peak``.

    The learning rate is ``peak * floor^(t / total_steps)``.

    torch's ``ExponentialLR(gamma)`` over n steps is ``exponential(peak, n, floor=gamma**n)``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: count at which the floor is reached; the last step of the run is one before it.
      floor: final fraction of the peak, in (0, 1].

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> round(exponential(1.0, 10, floor=0.01)(5).item(), 6)
    0.1
    """
    check_run(peak, total_steps)
    return decay(peak, total_steps, shape_of("exponential", floor), floor)
