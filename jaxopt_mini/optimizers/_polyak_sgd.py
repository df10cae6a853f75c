"""SGD with Polyak's step size: the gap to the minimal loss over the squared gradient norm."""

from __future__ import annotations

import math
from numbers import Real

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    identity,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import norm, times

VARIANTS = {"sps": lambda gap: gap, "sps+": lambda gap: jnp.maximum(gap, 0)}


def scale_by_polyak(
    f_min: ArrayLike = 0.0, max_learning_rate: ArrayLike = 1.0, eps: ArrayLike = 0.0, variant: str = "sps"
) -> GradientTransformationExtraArgs:
    """The direction of :func:`polyak_sgd`, without the learning rate.

    Args:
      f_min: a lower bound of the loss.
      max_learning_rate: upper bound of the factor of the gradient.
      eps: added to the squared norm.
      variant: "sps" or "sps+".

    Returns:
      A transformation without state, whose ``update`` needs the extra arg ``value``, the loss.
    """
    check_nonnegative(max_learning_rate=max_learning_rate, eps=eps)
    if isinstance(f_min, Real) and not math.isfinite(f_min):
        raise ValueError(f"f_min={f_min} is out of range: give a finite number")
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant={variant!r}: choose from {', '.join(VARIANTS)}")

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        if value is None:
            raise ValueError("polyak_sgd needs the loss: call update(updates, state, params, value=loss)")
        gap = VARIANTS[variant](jnp.asarray(value).astype(jnp.float32) - f_min)
        square = jnp.square(norm(updates)) + eps
        step = jnp.where(square > 0, jnp.minimum(gap / jnp.where(square > 0, square, 1), max_learning_rate), 0)
        return jax.tree.map(lambda leaf: times(leaf, step), updates), state

    return transformation(identity().init, update)


def polyak_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    max_learning_rate: ArrayLike = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: ArrayLike = 0.0,
    eps: ArrayLike = 0.0,
    variant: str = "sps",
) -> GradientTransformation:
    """SGD with a step size computed from the loss.

    Loizou et al., "Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence" (2021, arXiv
    2002.10542); Polyak, "Introduction to Optimization" (1987); "sps+": Garrigos et al. (2023, arXiv 2307.14528).
    Descends from :func:`sgd`::

        g <- scaling g
        p <- p - lr min((loss - f_min) / (|g|^2 + eps), max_learning_rate) g

    The step would reach ``f_min`` if the loss were linear. |g| is the global norm of the scaled gradients: ``scaling``
    multiplies the step where the bound is active and divides it elsewhere, as in Optax.

    Departures from Optax: the learning rate, which Optax doesn't have, comes first, as in every optimizer here; pass
    everything else by keyword. Small gradients, with |g|^2 < 2e-16, are not treated as zero.

    Args:
      learning_rate: a number or a schedule: factor of the step; 1.0.
      max_learning_rate: upper bound of the factor of the gradient, before the learning rate.
      scaling: a number or a schedule: factor of the gradients, before their norm is computed.
      f_min: a lower bound of the loss; if it is too low, steps are too long.
      eps: added to the squared norm.
      variant: "sps"; or "sps+", which doesn't ascend when the loss is below ``f_min``.

    Returns:
      A transformation without state, whose ``update`` needs the extra arg ``value``, the loss.

    Raises:
      ValueError: a number is out of range, the variant is unknown, or ``update`` is called without the loss.

    >>> tx, params = polyak_sgd(), jnp.array([3.0, 4.0])
    >>> updates, _ = tx.update(2 * params, tx.init(params), params, value=25.0)
    >>> print(updates)
    [-1.5 -2. ]
    """
    check_nonnegative(learning_rate=learning_rate, scaling=scaling)
    before, after = scale_by_learning_rate(scaling, flip_sign=False), scale_by_learning_rate(learning_rate)
    polyak = scale_by_polyak(f_min, max_learning_rate, eps, variant)
    counting = before if callable(scaling) else after

    # The state is Optax's: the count of the schedules, if there are any, comes first.
    def init(params):
        return chain(identity(), counting).init(params), polyak.init(params)

    def update(updates, state, params=None, **extra_args):
        (empty, count), polyak_state = state
        updates, _ = before.update(updates, count)
        updates, polyak_state = polyak.update(updates, polyak_state, params, **extra_args)
        updates, _ = after.update(updates, count)
        return updates, ((empty, counting.update({}, count)[1]), polyak_state)

    return transformation(init, update)
