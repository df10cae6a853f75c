"""One-cycle schedule: warm-up to a high learning rate, then decay to far below the initial one."""

from __future__ import annotations

from numbers import Real

from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.schedules._join import join
from jaxopt_mini.schedules._warmup import warmup as warm_up
from jaxopt_mini.schedules.arguments import Duration, check_part, check_run, steps_of
from jaxopt_mini.schedules.shapes import decay, shape_of


def one_cycle(
    peak: ArrayLike,
    total_steps: int,
    *,
    warmup: Duration = 0.3,
    shape: str = "cosine",
    start: ArrayLike = 0.04,
    floor: ArrayLike = 4e-6,
    three_phase: bool = False,
) -> Schedule:
    """Rises to ``peak``, then decays over the rest of the run.

    It starts at ``start * peak`` and ends at ``floor * peak``.

    Smith, Topin, "Super-Convergence" (2018, arXiv 1708.07120). With three phases it falls to ``start * peak`` in as
    many steps as it rose, and from there to the floor.

    torch's ``OneCycleLR(max_lr, n, pct_start=p, div_factor=d, final_div_factor=f)`` reaches its final value at the last
    step, not after it: ``one_cycle(max_lr, n - 1, warmup=p * n - 1, start=1 / d, floor=1 / (d * f))``.

    Args:
      peak: the highest learning rate, >= 0; may be traced.
      total_steps: count at which the floor is reached; the last step of the run is one before it.
      warmup: steps (>= 1), a fraction of the run (between 0 and 1), or 0 for none.
      shape: shape of all phases, one of ``SHAPES``.
      start: fraction of the peak at the first step, in [0, 1]; above 0 for three phases.
      floor: final fraction of the peak, in [0, 1].
      three_phase: whether to use three phases; the first two must fit into the run.

    Returns:
      A schedule, int32[] -> float32[].

    Raises:
      ValueError: a number is out of range, or the shape is unknown.

    >>> schedule = one_cycle(1.0, 100, warmup=30)
    >>> [round(schedule(t).item(), 3) for t in (0, 15, 30, 65, 100)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    check_run(peak, total_steps)
    check_part(start=start)
    form, rise = shape_of(shape, floor), steps_of("warmup", warmup, total_steps)
    if not three_phase:
        return warm_up(decay(peak, total_steps - rise, form, floor), rise, start=start, shape=shape)
    if rise > total_steps / 2 or (isinstance(start, Real) and start == 0):
        raise ValueError(
            f"three phases can't have warmup={warmup}, start={start}: give a warmup of at most half of the run and a "
            "start above 0"
        )
    back = decay(peak, rise, form, start)
    out = decay(peak * start, total_steps - 2 * rise, form, floor / start)
    return warm_up(join([back, out], [rise]), rise, start=start, shape=shape)
