"""Keywords of an optimizer that vary over a run: ``muon(beta=[(0, 0.85), (300, 0.95)])``.

A list of points (time, value) in the place of a number is interpolated linearly; it is constant before the first point
and after the last. A time is a number of optimizer updates (an int), or a fraction of the run (a float).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jaxopt_mini import GradientTransformation, inject_hyperparams
from jaxopt_mini.base import Schedule
from minigpt_flax.errors import UserError
from minigpt_flax.literals import problem
from minigpt_flax.spec import Spec, partial_bind
from minigpt_flax.train.registry import REGISTRIES

Points = list[Any]  # pairs (time, number), as the user wrote them


def points_of(spec: Spec) -> dict[str, Points]:
    """The keywords of a spec that have a list of points."""
    return {name: value for name, value in spec.keywords.items() if isinstance(value, list)}


def at(spec: Spec, count: int, updates: int) -> Spec:
    """The spec with the values that its varied keywords have after ``count`` updates."""
    values = {name: float(piecewise(points, updates)(count)) for name, points in points_of(spec).items()}
    return dataclasses.replace(spec, keywords={**spec.keywords, **values})


def piecewise(points: Points, updates: int) -> Schedule:
    """The value at each update, by linear interpolation.

    Args:
      points: (time, value), the times increasing.
      updates: of the run.

    Raises:
      UserError: the points are malformed.

    >>> [round(float(piecewise([(0, 0.85), (0.5, 0.95)], 100)(t)), 2) for t in (0, 25, 50, 99)]
    [0.85, 0.9, 0.95, 0.95]
    """
    try:
        times = [_updates(time, updates) for time, _ in points]
        values = [float(value) for _, value in points]
    except (TypeError, ValueError):
        times, values = [], []
    if not times or sorted(set(times)) != times:
        raise UserError(
            "a keyword that varies takes pairs (time, number), such as [(0, 0.85), (300, 0.95)]; times increase, "
            f"in updates or as fractions of the run from 0.0 to 1.0; got {points}"
        )
    return lambda count: jnp.interp(jnp.asarray(count, jnp.float32), jnp.array(times, jnp.float32), jnp.array(values))


def _updates(time: int | float, updates: int) -> float:
    if isinstance(time, bool) or time < 0 or (isinstance(time, float) and time > 1):
        raise ValueError
    return time * updates if isinstance(time, float) else float(time)


def bind_varied(
    spec: Spec, rate: Schedule, values: Mapping[str, Schedule], offered: Mapping[str, Any]
) -> GradientTransformation:
    """Constructs an optimizer some of whose keywords are schedules of its own update count, stored in its state.

    Raises:
      UserError: the optimizer has no such keyword, a value is out of range, or a keyword can't vary.
    """
    row = REGISTRIES["optimizer"].row(spec)
    for step in range(max(map(len, points_of(spec).values()))):  # as a plain spec, with every value
        numbers = {name: points[min(step, len(points) - 1)][1] for name, points in points_of(spec).items()}
        plain = dataclasses.replace(spec, keywords={**spec.keywords, **numbers})
        REGISTRIES["optimizer"].bind(plain, rate, offered=offered)
    parameters = inspect.signature(row).parameters
    for name in values:
        if name not in parameters or problem(parameters[name], 0.5) is not None:
            raise UserError(f"optimizer {spec.name!r}: {name} can't vary over a run: give it one value")
    injected = inject_hyperparams(row, static_args=parameters.keys() - values.keys())
    varied = functools.wraps(row)(lambda *args, **keywords: injected(*args, **{**keywords, **values}))
    build = partial_bind(plain, varied, "optimizer", 1, offered)
    try:
        return build(rate)
    except TypeError as error:  # the keyword decides what is computed, so it can't be traced
        names = " or ".join(values)
        raise UserError(f"optimizer {spec.name!r}: {names} can't vary over a run: give it one value") from error
