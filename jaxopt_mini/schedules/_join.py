"""Schedules one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from jaxopt_mini.base import Schedule


def join(schedules: Sequence[Schedule], boundaries: Sequence[int | float]) -> Schedule:
    """Schedules one after the other, each counting from 0 where it begins.

    Args:
      schedules: at least one; ours, Optax's or any function of a count.
      boundaries: the counts at which the second, third, ... take over, increasing.

    Returns:
      A schedule: int32[] -> float32[].

    Raises:
      ValueError: there isn't one boundary between two schedules, or they don't increase.

    >>> schedule = join([lambda count: count, lambda count: 10.0 * count], [3])
    >>> [schedule(t).item() for t in range(6)]
    [0.0, 1.0, 2.0, 0.0, 10.0, 20.0]
    """
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} boundaries, got {len(boundaries)}")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries={tuple(boundaries)} must increase")

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        value = jnp.asarray(schedules[0](count), jnp.float32)
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            value = jnp.where(count < boundary, value, jnp.asarray(later(count - boundary), jnp.float32))
        return value

    return schedule
