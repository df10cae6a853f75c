"""The shapes of a decay, by name, and the function that turns one into a schedule.

A shape maps the remaining fraction of the decay (1 at its start, 0 at its end) and the floor to a factor that goes from
1 to the floor. A warm-up is the same shape in reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import Schedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.schedules.arguments import check_part

Shape: TypeAlias = Callable[[jax.Array, Any], jax.Array]


def to_floor(curve: Callable[[jax.Array], jax.Array]) -> Shape:
    """Creates a shape from a curve that goes from 1 to 0: ``floor + (1 - floor) curve``."""
    return lambda left, floor: floor + (1 - floor) * curve(left)


def wave(left: jax.Array, cycles: ArrayLike = 0.5, exponent: ArrayLike = 1.0) -> jax.Array:
    """A cosine wave between 1 and 0 with ``cycles`` cycles, to a power; half a cycle is a single decay."""
    return (0.5 * (1 + jnp.cos(2 * jnp.pi * cycles * (1 - left)))) ** exponent


SHAPES: dict[str, Shape] = {
    "linear": to_floor(lambda left: left),
    "1-sqrt": to_floor(lambda left: 1 - jnp.sqrt(1 - left)),
    "square": to_floor(lambda left: 1 - jnp.square(1 - left)),
    "cosine": to_floor(wave),
    "mirror-cosine": to_floor(lambda left: 2 * left - wave(left)),
    "exponential": lambda left, floor: floor ** (1 - left),
}
POWERS: dict[str, Callable[[ArrayLike], Shape]] = {
    "power": lambda power: to_floor(lambda left: left**power),
    "1-power": lambda power: to_floor(lambda left: 1 - (1 - left) ** power),
}


def shape_of(name: str, floor: Any, floor_name: str = "floor") -> Shape:
    """Looks up a shape by name and checks the floor.

    Raises:
      ValueError: the shape is unknown, or the floor is not in [0, 1] or is 0 for the exponential, which never gets
        there.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}: choose from {', '.join(SHAPES)}")
    check_part(**{floor_name: floor})
    if name == "exponential" and isinstance(floor, Real) and floor == 0:
        raise ValueError(f"an exponential never reaches {floor_name}={floor}: give a number above 0")
    return SHAPES[name]


def powered_shape_of(name: str, floor: Any, power: ArrayLike | None) -> Shape:
    """Looks up a shape by name, among those with a ``power`` if one is given.

    Raises:
      ValueError: as :func:`shape_of`; or the shape needs a power and has none, or the other way round.
    """
    if name in SHAPES and power is None:
        return shape_of(name, floor)
    if name not in POWERS:
        names = ", ".join(POWERS if name in SHAPES else SHAPES | POWERS)
        raise ValueError(f"{'no power for the' if name in SHAPES else 'unknown'} shape {name!r}: choose from {names}")
    if power is None:
        raise ValueError(f"the shape {name!r} needs a power: give power=1.2, for instance")
    check_nonnegative(power=power)
    check_part(floor=floor)
    return POWERS[name](power)


def decay(peak: ArrayLike, steps: ArrayLike, shape: Shape, floor: ArrayLike) -> Schedule:
    """A schedule from ``peak`` at count 0 to ``floor * peak`` at count ``steps``, constant from there."""

    def schedule(count):
        left = 1 - jnp.asarray(count, jnp.float32) / jnp.maximum(jnp.asarray(steps, jnp.float32), 1.0)
        return jnp.asarray(peak, jnp.float32) * shape(jnp.clip(left, 0.0, 1.0), floor)

    return schedule
