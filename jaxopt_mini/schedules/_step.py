"""Step decay: piecewise constant learning rates."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules.arguments import Duration, check_run, steps_of


def step(peak: ArrayLike, total_steps: int, *, step_size: Duration = 1 / 3, gamma: ArrayLike = 0.1) -> Schedule:
    """The learning rate times ``gamma`` every ``step_size`` steps.

    Like torch's ``StepLR``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: length of the run.
      step_size: steps, or a fraction of the run; a third is the ImageNet recipe of 30 of 90 epochs.
      gamma: factor, >= 0.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = step(1.0, 30, step_size=10, gamma=0.5)
    >>> [schedule(t).item() for t in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check_run(peak, total_steps)
    check_nonnegative(gamma=gamma)
    every = max(1, steps_of("step_size", step_size, total_steps))

    def schedule(count):
        # The half step keeps the rounding of the division from delaying a drop.
        drops = jnp.floor((jnp.asarray(count, jnp.float32) + 0.5) / jnp.float32(every))
        return jnp.asarray(peak, jnp.float32) * gamma**drops

    return schedule


def multistep(
    peak: ArrayLike,
    total_steps: int,
    *,
    milestones: Sequence[Duration] = (0.5, 0.75),
    gamma: ArrayLike = 0.1,
) -> Schedule:
    """The learning rate times ``gamma`` at each milestone.

    Like torch's ``MultiStepLR``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: length of the run.
      milestones: counts, or fractions of the run, increasing; a repeated one applies twice. A half and three quarters
        is the recipe of He et al. (2016, arXiv 1512.03385) for CIFAR-10.
      gamma: factor, >= 0.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, or the milestones don't increase.

    >>> schedule = multistep(1.0, 100, milestones=(50, 75), gamma=0.5)
    >>> [schedule(t).item() for t in (0, 49, 50, 75)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check_run(peak, total_steps)
    check_nonnegative(gamma=gamma)
    counts = [steps_of("milestones", milestone, total_steps) for milestone in milestones]
    if counts != sorted(counts):
        raise ValueError(f"milestones={tuple(milestones)} don't increase: sort them")

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        drops = jnp.searchsorted(jnp.array(counts, jnp.float32), count, side="right")
        return jnp.asarray(peak, jnp.float32) * gamma ** drops.astype(jnp.float32)

    return schedule
