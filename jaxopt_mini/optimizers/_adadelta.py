"""Adadelta: the root mean square of recent updates replaces the learning rate, so that units match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByAdaDeltaState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, cast_like, widen, zeros_like


def scale_by_adadelta(rho: ArrayLike = 0.9, eps: ArrayLike = 1e-6) -> GradientTransformationExtraArgs:
    """The direction of :func:`adadelta`, without decay and learning rate.

    Args:
      rho: decay of the mean squares, in [0, 1).
      eps: added inside both roots.

    Returns:
      A transformation with an ``optax.ScaleByAdaDeltaState``, with e_g and e_x like the parameters.
    """
    check_fraction(rho=rho)
    check_nonnegative(eps=eps)

    def init(params):
        return ScaleByAdaDeltaState(e_g=zeros_like(params), e_x=zeros_like(params))

    def step(grad, e_g, e_x):
        return jnp.sqrt(widen(e_x) + eps) / jnp.sqrt(e_g + eps) * widen(grad)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        e_g = average(jax.tree.map(absolute_square, updates), state.e_g, rho)
        direction = jax.tree.map(step, updates, e_g, state.e_x)
        e_x = average(jax.tree.map(absolute_square, direction), state.e_x, rho)
        state = ScaleByAdaDeltaState(cast_like(e_g, state.e_g), cast_like(e_x, state.e_x))
        return cast_like(direction, updates), state

    return transformation(init, update)


def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: ArrayLike = 0.9,
    eps: ArrayLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """RMSProp whose step size is the RMS of recent updates.

    Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (2012, arXiv 1212.5701). Descends from :func:`rmsprop`::

        s <- rho s + (1 - rho) g^2
        d = g sqrt(x + eps) / sqrt(s + eps)
        x <- rho x + (1 - rho) d^2
        p <- p - lr d

    The root of x, the size of recent updates, takes the role of the learning rate; it starts from sqrt(eps).

    Notation: s, x are ``e_g``, ``e_x`` here, ``square_avg``, ``acc_delta`` in torch.

    Departures: none from Optax. The learning rate of the paper and of torch is 1.0.

    Args:
      learning_rate: a number or a schedule; 1.0. None, as in Optax, returns d itself, to be scaled by a later link.
      rho: decay of the mean squares, in [0, 1).
      eps: added inside both roots; a larger one makes larger first steps.
      weight_decay: a number or a schedule: an L2 penalty, added to the gradient.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx, params = adadelta(1.0), jnp.float32(3.0)
    >>> print(round(tx.update(params, tx.init(params), params)[0].item(), 5))
    -0.00316
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )
