"""Scale each matrix by a function of its fan-in and fan-out, so that one learning rate suits all widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformationExtraArgs, Params, stateless
from jaxopt_mini.matrices import resolve_layout
from jaxopt_mini.tree import times


def widening(fan_in: int, fan_out: int) -> float:
    """sqrt(max(1, fan_out / fan_in)): Muon's factor for matrices with more outputs than inputs."""
    return math.sqrt(max(1.0, fan_out / fan_in))


def spectral(fan_in: int, fan_out: int) -> float:
    """sqrt(fan_out / fan_in): the spectral norm of a matrix that preserves the root mean square of its inputs."""
    return math.sqrt(fan_out / fan_in)


SHAPES: dict[str, Callable[[int, int], float]] = {
    "widening": widening,
    "spectral": spectral,
    "none": lambda fan_in, fan_out: 1.0,
}
"""Factors by name."""


def consistent(rms: ArrayLike) -> Callable[[int, int], ArrayLike]:
    """Gives orthogonal updates of any shape the root mean square ``rms``.

    An orthogonal (m, n) matrix has min(m, n) singular values of 1, so its entries have a root mean square of
    1 / sqrt(max(m, n)).
    """
    return lambda fan_in, fan_out: rms * math.sqrt(max(fan_in, fan_out))


def scale_by_shape(
    factor: Callable[[int, int], ArrayLike], layout: Any | Callable[[Params], Any] | None = None
) -> GradientTransformationExtraArgs:
    """Multiplies every matrix by ``factor(fan_in, fan_out)``.

    Args:
      factor: (fan-in, fan-out) -> a number.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.

    Returns:
      A transformation without state.

    >>> import jax.numpy as jnp
    >>> updates, _ = scale_by_shape(widening).update({"w": jnp.ones((2, 8))}, scale_by_shape(widening).init({}))
    >>> updates["w"][0, 0].item()
    2.0
    """

    def scaled(updates, params):
        del params
        entries = resolve_layout(layout, updates)

        def one(leaf, entry):
            return times(leaf, factor(*entry.fans(leaf.shape))) if leaf.size else leaf

        return jax.tree.map(one, updates, entries)

    return stateless(scaled)
