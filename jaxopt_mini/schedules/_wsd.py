"""Warmup-stable-decay (WSD), a schedule whose run can be extended later."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules._constant import constant
from jaxopt_mini.schedules._join import join
from jaxopt_mini.schedules._warmup import warmup as warm_up
from jaxopt_mini.schedules.arguments import Duration, check_run, steps_of
from jaxopt_mini.schedules.shapes import decay, powered_shape_of


def wsd(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    cooldown: Duration = 0.2,
    shape: str = "1-sqrt",
    power: ArrayLike | None = None,
    floor: ArrayLike = 0.0,
    start: ArrayLike | None = None,
) -> Schedule:
    """Warm-up, a constant phase, and a cooldown at the end.

    Hu et al., "MiniCPM" (2024, arXiv 2404.06395); Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations" (2024, arXiv 2405.18392), who cool down over a fifth of the run with ``1-sqrt``. With u
    from 0 to 1 over the cooldown, the learning rate is ``peak (floor + (1 - floor) f(u))``:

    ==================  ==========================================
    shape               f
    ==================  ==========================================
    ``linear``          1 - u
    ``1-sqrt``          1 - sqrt(u)
    ``square``          1 - u^2
    ``cosine``          (1 + cos(pi u)) / 2
    ``mirror-cosine``   the cosine mirrored at the line 1 - u
    ``power``           (1 - u)^power
    ``1-power``         1 - u^power
    ``exponential``     the learning rate is ``peak floor^u``
    ==================  ==========================================

    A decay over the whole run, without a constant phase, is ``cooldown=0.95`` after the default warm-up. The schedule
    min(peak, c (end - t)^power) of modded-nanogpt is ``wsd(peak, end, warmup=0, cooldown=(peak / c) ** (1 / power),
    shape="power", power=power)``.

    Args:
      peak: the constant learning rate, >= 0; may be traced.
      total_steps: length of the run, including warm-up and cooldown.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      cooldown: length of the cooldown, in the same form.
      shape: shape of the cooldown, one of the table.
      power: exponent of the shapes "power" and "1-power"; None for the others.
      floor: final fraction of the peak, in [0, 1]; above 0 for the exponential.
      start: fraction of the peak at the first step; None is ``1 / (warm-up steps + 1)``.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, warm-up and cooldown overlap, the shape is unknown, or ``power`` doesn't
        fit it.

    >>> schedule = wsd(1.0, 100, warmup=10, cooldown=20, shape="linear")
    >>> [round(schedule(t).item(), 3) for t in (0, 10, 80, 90, 100)]
    [0.091, 1.0, 1.0, 0.5, 0.0]
    """
    check_run(peak, total_steps)
    rise, fall = (steps_of(name, amount, total_steps) for name, amount in (("warmup", warmup), ("cooldown", cooldown)))
    if rise + fall > total_steps:
        raise ValueError(
            f"warmup={warmup} and cooldown={cooldown} together exceed the run of {total_steps} steps: shorten one"
        )
    stable = constant(peak, total_steps)
    end = decay(peak, fall, powered_shape_of(shape, floor, power), floor)
    return warm_up(join([stable, end], [total_steps - rise - fall]), rise, start=start)
