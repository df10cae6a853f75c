"""AdaMax: Adam with the infinity norm: divides by the largest recent gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByAdamState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import average, bias_correction, cast_like, increment, widen, zeros_like


def scale_by_adamax(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adamax`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the largest gradient, in [0, 1).
      eps: added to the gradient's absolute value.

    Returns:
      A transformation with an ``optax.ScaleByAdamState``, with count int32[], mu and nu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps)

    def init(params):
        return ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros_like(params), nu=zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        nu = jax.tree.map(lambda g, u: jnp.maximum(jnp.abs(widen(g)) + eps, b2 * widen(u)), updates, state.nu)
        direction = jax.tree.map(lambda m, u: m / u, bias_correction(mu, b1, count), nu)
        state = ScaleByAdamState(count, cast_like(mu, state.mu), cast_like(nu, state.nu))
        return cast_like(direction, updates), state

    return transformation(init, update)


def adamax(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
) -> GradientTransformation:
    """Adam divided by a decaying maximum of the gradient.

    Kingma, Ba, "Adam: A Method for Stochastic Optimization" (2015, arXiv 1412.6980), section 7.1. :func:`adam` with the
    infinity norm, which needs no bias correction::

        u <- max(b2 u, |g| + eps)
        p <- p - lr m_hat / u

    Notation: u is ``nu`` here and ``exp_inf`` in torch.

    Departures: none from Optax and torch; the paper has no eps. For torch's ``weight_decay=w``, an L2 penalty, use
    ``chain(add_decayed_weights(w), adamax(...))``; for decoupled decay, :func:`adamaxw`.

    Args:
      learning_rate: a number or a schedule; the paper uses 2e-3.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the largest gradient, in [0, 1).
      eps: added to the gradient's absolute value.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = adamax(0.1, b1=0.0, b2=0.5)
    >>> state = tx.init(jnp.float32(0.0))
    >>> for grad in (4.0, 1.0, 1.0):
    ...     updates, state = tx.update(jnp.float32(grad), state)
    ...     print(updates)
    -0.1
    -0.05
    -0.1
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))
