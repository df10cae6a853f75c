"""Warm-up, stable, decay: the schedule whose run can be made longer after the fact."""

from __future__ import annotations

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules._constant import constant
from jaxopt_mini.schedules._join import join
from jaxopt_mini.schedules._warmup import warmup as warm_up
from jaxopt_mini.schedules.arguments import Duration, check_run, steps_of
from jaxopt_mini.schedules.shapes import decay, shape_of


def wsd(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.05,
    cooldown: Duration = 0.2,
    shape: str = "1-sqrt",
    floor: ArrayLike = 0.0,
    start: ArrayLike | None = None,
) -> Schedule:
    """Warm-up, a constant stretch, and a cool-down at the end of the run.

    Hu et al., "MiniCPM" (2024, arXiv 2404.06395); Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations" (2024, arXiv 2405.18392), who cool down for a fifth of the run as ``1 - sqrt``. With u
    from 0 to 1 over the cool-down, the rate is ``peak (floor + (1 - floor) f(u))``:

    ==================  ==========================================
    shape               f
    ==================  ==========================================
    ``linear``          1 - u
    ``1-sqrt``          1 - sqrt(u)
    ``square``          1 - u^2
    ``cosine``          (1 + cos(pi u)) / 2
    ``mirror-cosine``   the cosine mirrored at the straight line
    ``exponential``     the rate is ``peak floor^u``
    ==================  ==========================================

    Args:
      peak: the constant rate, >= 0; may be traced.
      total_steps: length of the run, warm-up and cool-down included.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      cooldown: likewise, at the end.
      shape: of the cool-down, one of the table.
      floor: fraction of the peak at the end, in [0, 1]; above 0 for the exponential.
      start: fraction of the peak at the first step; None is ``1 / (steps of warm-up + 1)``.

    Returns:
      A schedule: int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, warm-up and cool-down overlap, or there is no such shape.

    >>> schedule = wsd(1.0, 100, warmup=10, cooldown=20, shape="linear")
    >>> [round(schedule(t).item(), 3) for t in (0, 10, 80, 90, 100)]
    [0.091, 1.0, 1.0, 0.5, 0.0]
    """
    check_run(peak, total_steps)
    rise, fall = (steps_of(name, amount, total_steps) for name, amount in (("warmup", warmup), ("cooldown", cooldown)))
    if rise + fall > total_steps:
        raise ValueError(
            f"warmup={warmup} and cooldown={cooldown} together are longer than the run of {total_steps} steps: "
            "make one of them shorter"
        )
    stable = constant(peak, total_steps)
    end = decay(peak, fall, shape_of(shape, floor), floor)
    return warm_up(join([stable, end], [total_steps - rise - fall]), rise, start=start)
