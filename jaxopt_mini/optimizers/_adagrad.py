"""AdaGrad: divides every entry by the root of the sum of its squared gradients so far."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByRssState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    Schedule,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, cast_like, full_like, widen


def scale_by_rss(
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adagrad`, without the learning rate.

    Args:
      initial_accumulator_value: initial value of the sum, >= 0.
      eps: added to the denominator.
      eps_in_sqrt: add it inside the root.

    Returns:
      A transformation with an ``optax.ScaleByRssState``, with sum_of_squares like the parameters.
    """
    check_nonnegative(initial_accumulator_value=initial_accumulator_value, eps=eps)

    def root(total):
        return jnp.sqrt(total + eps) if eps_in_sqrt else jnp.sqrt(total) + eps

    def divide(grad, total):
        # Before the first nonzero gradient the sum may be 0, and eps too.
        return jnp.where(total > 0, widen(grad) / root(jnp.where(total > 0, total, 1)), 0)

    def init(params):
        return ScaleByRssState(full_like(params, initial_accumulator_value))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        total = jax.tree.map(lambda g, old: absolute_square(g) + widen(old), updates, state.sum_of_squares)
        direction = jax.tree.map(divide, updates, total)
        state = ScaleByRssState(cast_like(total, state.sum_of_squares))
        return cast_like(direction, updates), state

    return transformation(init, update)


def adagrad(
    learning_rate: ScalarOrSchedule | None,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
    *,
    eps_in_sqrt: bool = True,
    lr_decay: ArrayLike | None = None,
) -> GradientTransformation:
    """Divides by the root of the sum of squared gradients.

    Duchi, Hazan, Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization" (2011,
    jmlr.org/papers/v12/duchi11a.html). Descends from :func:`sgd`::

        s <- s + g^2                      s starts from initial_accumulator_value
        p <- p - lr g / sqrt(s + eps)     or g / (sqrt(s) + eps)

    Departures: the defaults are Optax's. The form of the paper and of torch is
    ``adagrad(lr, initial_accumulator_value=0.0, eps=1e-10, eps_in_sqrt=False)``. For torch's ``weight_decay=w``, an L2
    penalty, use ``chain(add_decayed_weights(w), adagrad(...))``.

    Args:
      learning_rate: a number or a schedule; 1e-2 to 1.
      initial_accumulator_value: initial value of the sum, >= 0; above 0 it damps the first steps.
      eps: added to the denominator.
      eps_in_sqrt: add it inside the root; False adds it outside.
      lr_decay: torch's learning-rate decay: step t, from 0, uses lr / (1 + lr_decay t); None is no decay and no count.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx = adagrad(0.1, initial_accumulator_value=0.0, eps=0.0)
    >>> grads = jnp.float32(5.0)
    >>> state = tx.init(grads)
    >>> for _ in range(3):
    ...     updates, state = tx.update(grads, state)
    ...     print(round(updates.item(), 4))
    -0.1
    -0.0707
    -0.0577
    """
    check_nonnegative(learning_rate=learning_rate, lr_decay=lr_decay)
    rate = learning_rate if lr_decay is None else _decayed(learning_rate, lr_decay)
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt),
        scale_by_learning_rate(rate),
    )


def _decayed(rate: Any, lr_decay: Any) -> Schedule:
    schedule = rate if callable(rate) else lambda count: rate
    return lambda count: schedule(count) / (1 + lr_decay * jnp.asarray(count, jnp.float32))
