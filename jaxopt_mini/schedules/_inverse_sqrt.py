"""Inverse square-root decay, which doesn't depend on the length of the run."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules._warmup import warmup as warm_up
from jaxopt_mini.schedules.arguments import Duration, check_run, steps_of


def inverse_sqrt(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    timescale: int | float | None = None,
    start: ArrayLike | None = None,
) -> Schedule:
    """Warm-up, then decay as one over the root of the step.

    After w steps of warm-up the learning rate is ``peak sqrt(timescale / (t - w + timescale))``.

    Args:
      peak: learning rate after the warm-up, >= 0; may be traced.
      total_steps: length of the run, used only if ``warmup`` is a fraction of it.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      timescale: steps after which the learning rate has decayed to ``1 / sqrt(2)`` of the peak, >= 1; None uses the
        length of the warm-up: the learning rate is ``peak sqrt(w / t)``.
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = inverse_sqrt(1.0, 1000, warmup=10)
    >>> [round(schedule(t).item(), 3) for t in (0, 10, 40, 1000)]
    [0.091, 1.0, 0.5, 0.1]
    """
    check_run(peak, total_steps)
    steps = steps_of("warmup", warmup, total_steps)
    timescale = max(1, steps) if timescale is None else timescale
    if not timescale >= 1:
        raise ValueError(f"timescale={timescale} is out of range: give at least 1 step")

    def after(count):
        steps = jnp.float32(timescale)
        return jnp.asarray(peak, jnp.float32) * jnp.sqrt(steps / (jnp.asarray(count, jnp.float32) + steps))

    return warm_up(after, steps, start=start)


def noam(peak: ArrayLike, total_steps: int, *, warmup: Duration = 0.05) -> Schedule:
    """Linear warm-up, then inverse square-root decay.

    The schedule of the original Transformer.

    Vaswani et al., "Attention Is All You Need" (2017, arXiv 1706.03762), with n = t + 1 and w steps of warm-up::

        d_model^-0.5 min(n^-0.5, n w^-1.5)  =  peak min(sqrt(w / n), n / w)     for peak = (d_model w)^-0.5

    Args:
      peak: the highest learning rate, at n = w; >= 0, may be traced.
      total_steps: length of the run, used only if ``warmup`` is a fraction of it.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = noam(1.0, 1000, warmup=10)
    >>> [round(schedule(t).item(), 3) for t in (0, 9, 39, 999)]
    [0.1, 1.0, 0.5, 0.1]
    """
    check_run(peak, total_steps)
    steps = max(1, steps_of("warmup", warmup, total_steps))
    return inverse_sqrt(peak, total_steps, warmup=steps - 1, timescale=steps)
