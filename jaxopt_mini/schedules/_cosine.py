"""Cosine decay, with or without restarts."""

from __future__ import annotations

from functools import partial
from itertools import accumulate

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules.arguments import Duration, check_part, check_run, steps_of
from jaxopt_mini.schedules.shapes import SHAPES, decay, to_floor, wave

MOST_CYCLES = 10_000


def cosine(
    peak: ArrayLike,
    total_steps: int,
    *,
    floor: ArrayLike = 0.0,
    cycles: ArrayLike = 0.5,
    exponent: ArrayLike = 1.0,
) -> Schedule:
    """Half a cosine from ``peak`` to ``floor * peak``.

    Loshchilov, Hutter, "SGDR" (2017, arXiv 1608.03983), without the restarts::

        peak (floor + (1 - floor) ((1 + cos(pi t / total_steps)) / 2)^exponent)

    torch's ``CosineAnnealingLR(T_max, eta_min)`` is ``floor=eta_min / peak``; it rises again after ``T_max``, as with
    more ``cycles``: ``cosine(peak, n, floor=eta_min / peak, cycles=n / T_max / 2)``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: count at which the floor is reached; the last step of the run is one before it.
      floor: final fraction of the peak, in [0, 1]; language models use 0.1 or 0.
      cycles: number of full cosine waves; Hugging Face's ``num_cycles``.
      exponent: power of the cosine wave, >= 0, as in Optax's ``cosine_decay_schedule``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = cosine(1.0, 10)
    >>> [round(schedule(t).item(), 3) for t in (0, 5, 10, 99)]
    [1.0, 0.5, 0.0, 0.0]
    """
    check_run(peak, total_steps)
    check_part(floor=floor)
    check_nonnegative(cycles=cycles, exponent=exponent)
    return decay(peak, total_steps, to_floor(partial(wave, cycles=cycles, exponent=exponent)), floor)


def cosine_restarts(
    peak: ArrayLike,
    total_steps: int,
    *,
    period: Duration = 0.25,
    mult: int | float = 1.0,
    gamma: ArrayLike = 1.0,
    floor: ArrayLike = 0.0,
) -> Schedule:
    """Cosine cycles with warm restarts (SGDR).

    Cycles can grow in length.

    Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017, arXiv 1608.03983). Cycle i has
    ``period * mult**i`` steps and starts at ``peak * gamma**i``.

    Args:
      peak: learning rate of the first step, >= 0; may be traced.
      total_steps: length of the run; no cycle starts after it.
      period: length of the first cycle, in steps or as a fraction of the run; the paper's T_0.
      mult: length of each cycle relative to the previous one, >= 1; the paper's T_mult.
      gamma: peak of each cycle relative to the previous one, >= 0; 1 in the paper.
      floor: final fraction of each cycle's peak, in [0, 1].

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range.

    >>> schedule = cosine_restarts(1.0, 30, period=10, mult=2)
    >>> [round(schedule(t).item(), 3) for t in (0, 5, 9, 10, 20)]
    [1.0, 0.5, 0.024, 1.0, 0.5]
    """
    check_run(peak, total_steps)
    check_part(floor=floor)
    check_nonnegative(gamma=gamma)
    if not mult >= 1:
        raise ValueError(f"mult={mult} is out of range: give a number >= 1, so that cycles don't become shorter")
    lengths = [max(1, steps_of("period", period, total_steps))]
    end = lengths[0]
    while end < total_steps - 0.5:  # less than half a step is rounding, not a cycle
        if len(lengths) == MOST_CYCLES:
            raise ValueError(f"period={period} gives over {MOST_CYCLES:,} cycles: give a longer one")
        lengths.append(lengths[-1] * mult)
        end += lengths[-1]
    starts = (0, *accumulate(lengths[:-1]))

    def schedule(count):
        count = jnp.asarray(count, jnp.float32)
        cycle = jnp.searchsorted(jnp.array(starts, jnp.float32), count, side="right") - 1
        start, length = (jnp.array(times, jnp.float32)[cycle] for times in (starts, lengths))
        within = decay(peak, length, SHAPES["cosine"], floor)
        return within(count - start) * gamma ** cycle.astype(jnp.float32)

    return schedule
