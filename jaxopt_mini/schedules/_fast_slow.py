"""Fast-slow decay: most of the decay early, the rest over a long linear tail."""

from __future__ import annotations

from itertools import accumulate

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules._constant import constant
from jaxopt_mini.schedules._join import join
from jaxopt_mini.schedules._warmup import warmup as warm_up
from jaxopt_mini.schedules.arguments import Duration, check_part, check_run, steps_of
from jaxopt_mini.schedules.shapes import POWERS, SHAPES, decay


def fast_slow(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    plateau: Duration = 0.03,
    fast: Duration = 0.47,
    knee: ArrayLike = 0.2,
    power: ArrayLike = 0.6,
    start: ArrayLike | None = None,
) -> Schedule:
    """Warm-up, a short plateau, a fast decay to a knee, and a linear decay to 0.

    From the records of modded-nanogpt (2026). With u from 0 to 1 over the fast decay, the learning rate is
    ``peak (1 - (1 - knee) u^power)``.

    Args:
      peak: the learning rate of the plateau, >= 0; may be traced.
      total_steps: count at which 0 is reached; the last step of the run is one before it.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      plateau: length of the plateau, in the same form.
      fast: length of the fast decay, in the same form.
      knee: fraction of the peak at which the slow decay starts, in [0, 1].
      power: exponent of the fast decay; the smaller, the faster its start.
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, or the phases are longer than the run.

    >>> schedule = fast_slow(1.0, 100, warmup=5, plateau=5, fast=40, knee=0.2)
    >>> [round(schedule(t).item(), 3) for t in (5, 10, 11, 50, 75, 100)]
    [1.0, 1.0, 0.913, 0.2, 0.1, 0.0]
    """
    check_run(peak, total_steps)
    check_part(knee=knee)
    check_nonnegative(power=power)
    given = {"warmup": warmup, "plateau": plateau, "fast": fast}
    rise, flat, fall = (steps_of(name, amount, total_steps) for name, amount in given.items())
    rest = total_steps - rise - flat - fall
    if rest < 0:
        phases = ", ".join(f"{name}={amount}" for name, amount in given.items())
        raise ValueError(f"{phases} together exceed the run of {total_steps} steps: shorten one")
    phases = (
        (rise + flat, warm_up(constant(peak, total_steps), rise, start=start)),
        (fall, decay(peak, fall, POWERS["1-power"](power), knee)),
        (rest, decay(peak * knee, rest, SHAPES["linear"], 0.0)),
    )
    lengths, schedules = zip(*(phase for phase in phases[:2] if phase[0]), phases[2], strict=True)
    return join(schedules, list(accumulate(lengths))[:-1])
