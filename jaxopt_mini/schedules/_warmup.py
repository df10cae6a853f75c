"""Warm-up: a combinator for any schedule, and the three most common combinations.

With w warm-up steps, step t = 0, 1, ... has ``start + (1 - start) t / w`` of the learning rate that step w reaches. By
default ``start = 1 / (w + 1)``, so that the first step is not lost and all increments are equal. Other definitions of
warm-up:

=====================  =====================  ======================================
code                   ramp                   here
=====================  =====================  ======================================
nanoGPT                (t + 1) / (w + 1)      ``warmup=w``
Vaswani et al.         (t + 1) / w            ``warmup=w - 1``
Hugging Face           t / w, first step 0    ``warmup=w, start=0.0``
torch ``LinearLR``     from start_factor      ``warmup=total_iters, start=start_factor``
=====================  =====================  ======================================
"""

from __future__ import annotations

from functools import partial
from numbers import Real

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules._join import join
from jaxopt_mini.schedules.arguments import Duration, check_part, check_run, steps_of
from jaxopt_mini.schedules.shapes import SHAPES, decay, shape_of, to_floor, wave


def warmup(
    schedule: Schedule, steps: int | float, *, start: ArrayLike | None = None, shape: str = "linear"
) -> Schedule:
    """Rises to ``schedule(0)`` in ``steps`` steps, then follows ``schedule``, which counts from there.

    Args:
      schedule: the schedule after the warm-up.
      steps: length of the warm-up, >= 1, or 0 for none.
      start: fraction of ``schedule(0)`` at the first step, in [0, 1]; None is ``1 / (steps + 1)``.
      shape: one of ``SHAPES``, in reverse.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, or the shape is unknown.

    >>> ramp = warmup(lambda count: 1.0, 4)
    >>> [round(ramp(t).item(), 3) for t in range(6)]
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """
    if isinstance(steps, Real) and not (steps == 0 or steps >= 1):
        raise ValueError(f"steps={steps} is out of range: give 0 or at least 1 step of warm-up")
    start = 1 / (steps + 1) if start is None else start
    rise = shape_of(shape, start, "start")

    def ramp(count):
        return schedule(0) * rise(jnp.clip(count / jnp.maximum(jnp.asarray(steps, jnp.float32), 1.0), 0.0, 1.0), start)

    return join([ramp, schedule], [steps])


def warmup_constant(
    peak: ArrayLike, total_steps: int, *, warmup: Duration = 0.05, start: ArrayLike | None = None
) -> Schedule:
    """Warm-up, then a constant learning rate.

    Args:
      peak: learning rate after the warm-up, >= 0; may be traced.
      total_steps: length of the run.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = warmup_constant(1.0, 100, warmup=4)
    >>> [round(schedule(t).item(), 3) for t in (0, 1, 4, 50)]
    [0.2, 0.4, 1.0, 1.0]
    """
    return _warmup_decay(peak, total_steps, warmup, start, SHAPES["linear"], floor=1.0)


def warmup_linear(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    floor: ArrayLike = 0.0,
    start: ArrayLike | None = None,
) -> Schedule:
    """Warm-up, then linear decay to ``floor * peak``.

    Args:
      peak: learning rate after the warm-up, >= 0; may be traced.
      total_steps: length of the run, including the warm-up.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      floor: final fraction of the peak, in [0, 1].
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = warmup_linear(1.0, 100, warmup=20)
    >>> [round(schedule(t).item(), 3) for t in (0, 20, 60, 100)]
    [0.048, 1.0, 0.5, 0.0]
    """
    return _warmup_decay(peak, total_steps, warmup, start, SHAPES["linear"], floor)


def warmup_cosine(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    floor: ArrayLike = 0.1,
    start: ArrayLike | None = None,
    exponent: ArrayLike = 1.0,
) -> Schedule:
    """Warm-up, then cosine decay; usual for language models.

    The decay ends at ``floor * peak`` at the end of the run.

    The defaults are nanoGPT's (100 of 2000 steps, down to a tenth).

    Args:
      peak: learning rate after the warm-up, >= 0; may be traced.
      total_steps: length of the run, including the warm-up.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      floor: final fraction of the peak, in [0, 1].
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.
      exponent: power of the cosine wave, >= 0, as in Optax's ``warmup_cosine_decay_schedule``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = warmup_cosine(1e-3, 2000, warmup=100, floor=0.1)
    >>> [round(schedule(t).item(), 6) for t in (0, 99, 100, 1050, 2000)]
    [1e-05, 0.00099, 0.001, 0.00055, 0.0001]
    """
    check_nonnegative(exponent=exponent)
    return _warmup_decay(peak, total_steps, warmup, start, to_floor(partial(wave, exponent=exponent)), floor)


def _warmup_decay(peak, total_steps, warmup_steps, start, shape, floor):
    check_run(peak, total_steps)
    check_part(floor=floor)
    steps = steps_of("warmup", warmup_steps, total_steps)
    after = decay(peak, total_steps - steps, shape, floor)
    return warmup(after, steps, start=start)
