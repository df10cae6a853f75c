"""Yogi: Adam whose second moment changes additively, by a fixed fraction of the squared gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByAdamState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, full_like, increment, widen


def scale_by_yogi(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-3,
    eps_root: ArrayLike = 0.0,
    initial_accumulator_value: ArrayLike = 1e-6,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`yogi`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: v changes by 1 - b2 times the squared gradient; in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      initial_accumulator_value: initial value of m and v.

    Returns:
      A transformation with an ``optax.ScaleByAdamState``, with count int32[], mu and nu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root, initial_accumulator_value=initial_accumulator_value)

    def towards(grad, v):
        square, v = absolute_square(grad), widen(v)
        return v - (1 - b2) * jnp.sign(v - square) * square

    def init(params):
        mu, nu = (full_like(params, initial_accumulator_value) for _ in range(2))
        return ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        nu = jax.tree.map(towards, updates, state.nu)
        m, v = bias_correction(mu, b1, count), bias_correction(nu, b2, count)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v + eps_root) + eps), m, v)
        state = ScaleByAdamState(count, cast_like(mu, state.mu), cast_like(nu, state.nu))
        return cast_like(direction, updates), state

    return transformation(init, update)


def yogi(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-3,
    *,
    initial_accumulator_value: ArrayLike = 1e-6,
) -> GradientTransformation:
    """Adam whose second moment changes in additive steps.

    Zaheer et al., "Adaptive Methods for Nonconvex Optimization" (2018,
    papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization). :func:`adam` with another second moment::

        v <- v - (1 - b2) sign(v - g^2) g^2

    When small gradients follow a large one, Adam's v shrinks by (1 - b2) v per step, this one only by (1 - b2) g^2, so
    that step sizes recover slowly.

    Departures: none from Optax, which initializes m as well as v to 1e-6, and corrects both as if they had started at
    zero.

    Args:
      learning_rate: a number or a schedule; the paper uses 1e-2.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: v changes by 1 - b2 times the squared gradient; in [0, 1).
      eps: added outside the root; larger than Adam's, and than the gradients of language models.
      initial_accumulator_value: initial value of m and v.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = yogi(0.1)
    >>> grads = jnp.array([1.0, -100.0])
    >>> [round(x, 4) for x in tx.update(grads, tx.init(grads))[0].tolist()]
    [-0.0999, 0.1]
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(
        scale_by_yogi(b1, b2, eps, initial_accumulator_value=initial_accumulator_value),
        scale_by_learning_rate(learning_rate),
    )
