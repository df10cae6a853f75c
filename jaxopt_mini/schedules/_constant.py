"""Constant learning rate."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules.arguments import check_run


def constant(peak: ArrayLike, total_steps: int) -> Schedule:
    """The same learning rate at every step.

    Args:
      peak: the learning rate, >= 0; may be traced.
      total_steps: length of the run; has no effect.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: ``peak`` is negative or ``total_steps`` is below 1.

    >>> constant(0.5, 10)(3).item()
    0.5
    """
    check_run(peak, total_steps)
    return lambda count: jnp.broadcast_to(jnp.asarray(peak, jnp.float32), jnp.shape(count))
