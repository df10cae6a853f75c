"""SGD with Polyak's step: as long as the loss still to be lost says, given the slope."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, identity
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import norm, times

VARIANTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "sps": lambda gap: gap,
    "sps+": lambda gap: jnp.maximum(gap, 0),
}


def scale_by_polyak(
    f_min: ArrayLike = 0.0,
    max_learning_rate: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    variant: str = "sps",
) -> GradientTransformationExtraArgs:
    """The step of :func:`polyak_sgd` upwards, without the learning rate.

    Args:
      f_min: a lower bound of the loss.
      max_learning_rate: what the gradient is multiplied by at most.
      eps: added to the squared norm.
      variant: "sps" or "sps+".

    Returns:
      A transformation without state, whose ``update`` needs ``value=``, the loss.
    """
    check_nonnegative(max_learning_rate=max_learning_rate, eps=eps)
    if isinstance(f_min, Real) and not math.isfinite(f_min):
        raise ValueError(f"f_min={f_min} is out of range: give a finite number")
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is unknown; the names are {', '.join(VARIANTS)}")

    def update(updates, state, params=None, *, value=None, **extra):
        del params, extra
        if value is None:
            raise ValueError("polyak_sgd needs the loss: call update(updates, state, params, value=loss)")
        gap = VARIANTS[variant](jnp.asarray(value).astype(jnp.float32) - f_min)
        square = jnp.square(norm(updates)) + eps
        step = jnp.where(square > 0, jnp.minimum(gap / jnp.where(square > 0, square, 1), max_learning_rate), 0)
        return jax.tree.map(lambda leaf: times(leaf, step), updates), state

    return GradientTransformationExtraArgs(identity().init, update)


def polyak_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    max_learning_rate: ArrayLike = 1.0,
    f_min: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """SGD with the step size of Polyak.

    Loizou et al., "Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence" (2021, arXiv
    2002.10542); Polyak, "Introduction to Optimization" (1987); "sps+": Garrigos et al. (2023, arXiv 2307.14528).
    Descends from :func:`sgd`::

        p <- p - lr min((loss - f_min) / (|g|^2 + eps), max_learning_rate) g

    The step would reach ``f_min`` if the loss went on in a straight line. |g| is the norm of all gradients together.

    Departures from Optax: its ``scaling`` is the learning rate here and comes first. There it divides the step where
    the bound doesn't act, because the norm is taken of the gradients already scaled; here it multiplies, as the formula
    in both docstrings says. Gradients so small that |g|^2 < 2e-16 aren't taken for zero.

    Args:
      learning_rate: a number or a schedule: what the step is multiplied by; 1.0.
      max_learning_rate: what the gradient is multiplied by at most, before the learning rate.
      f_min: a lower bound of the loss; too low a one makes steps too long.
      eps: added to the squared norm.
      variant: "sps"; or "sps+", which doesn't climb when the loss is below ``f_min``.

    Returns:
      A transformation without state, whose ``update`` needs ``value=``, the loss.

    Raises:
      ValueError: a number is out of range, the variant is unknown, or ``update`` isn't given the loss.

    >>> tx, params = polyak_sgd(), jnp.array([3.0, 4.0])
    >>> updates, _ = tx.update(2 * params, tx.init(params), params, value=25.0)
    >>> print(updates)
    [-1.5 -2. ]
    """
    check_nonnegative(learning_rate=learning_rate)
    rate = chain(identity(), scale_by_learning_rate(learning_rate))
    polyak = scale_by_polyak(f_min, max_learning_rate, eps, variant)

    # The state has Optax's order, the rate first, whereas the rate must come after the norm is taken.
    def init(params):
        return rate.init(params), polyak.init(params)

    def update(updates, state, params=None, **extra):
        updates, polyak_state = polyak.update(updates, state[1], params, **extra)
        updates, rate_state = rate.update(updates, state[0], params)
        return updates, (rate_state, polyak_state)

    return GradientTransformationExtraArgs(init, update)
