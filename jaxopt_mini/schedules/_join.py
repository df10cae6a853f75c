"""Schedules in sequence."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from jaxopt_mini.base import Schedule


def join(schedules: Sequence[Schedule], boundaries: Sequence[int | float]) -> Schedule:
    """Runs schedules in sequence; each counts from 0 where it begins.

    Args:
      schedules: at least one schedule, from any library.
      boundaries: the counts at which the second, third, ... schedule takes over, increasing.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: the number of boundaries doesn't match, or they don't increase.

    >>> schedule = join([lambda count: count, lambda count: 10.0 * count], [3])
    >>> [schedule(t).item() for t in range(6)]
    [0.0, 1.0, 2.0, 0.0, 10.0, 20.0]
    """
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} boundaries, got {len(boundaries)}")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries={tuple(boundaries)} don't increase: give increasing counts")

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        value = jnp.asarray(schedules[0](count), jnp.float32)
        for boundary, later in zip(map(jnp.float32, boundaries), schedules[1:], strict=True):
            value = jnp.where(count < boundary, value, jnp.asarray(later(count - boundary), jnp.float32))
        return value

    return schedule
