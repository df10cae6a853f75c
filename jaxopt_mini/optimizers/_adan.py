"""Adan: Adam with Nesterov momentum, computed from differences of successive gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByAdanState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain, masked
from jaxopt_mini.transforms._scale import scale, scale_by_learning_rate, scale_by_schedule
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, widen, zeros_like


def scale_by_adan(
    b1: ArrayLike = 0.98,
    b2: ArrayLike = 0.92,
    b3: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adan`, without decay and learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of the differences, and their weight, in [0, 1).
      b3: decay of the mean of the square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.

    Returns:
      A transformation with an ``optax.ScaleByAdanState``, with m, v, n, g like the parameters, t int32[].
    """
    check_fraction(b1=b1, b2=b2, b3=b3)
    check_nonnegative(eps=eps, eps_root=eps_root)

    def init(params):
        return ScaleByAdanState(*(zeros_like(params) for _ in range(4)), t=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        t = increment(state.t)
        g = jax.tree.map(widen, updates)
        difference = jax.tree.map(lambda g, old: jnp.where(state.t == 0, 0, g - widen(old)), g, state.g)
        ahead = jax.tree.map(lambda g, d: absolute_square(g + b2 * d), g, difference)
        moments = average(g, state.m, b1), average(difference, state.v, b2), average(ahead, state.n, b3)
        m, v, n = (bias_correction(moment, b, t) for moment, b in zip(moments, (b1, b2, b3), strict=True))
        direction = jax.tree.map(lambda m, v, n: (m + b2 * v) / (jnp.sqrt(n + eps_root) + eps), m, v, n)
        stored = (cast_like(new, old) for new, old in zip((*moments, g), state[:4], strict=True))
        return cast_like(direction, updates), ScaleByAdanState(*stored, t=t)

    return transformation(init, update)


def _shrink(rate, decay, mask):
    """Divides updates by 1 + lr weight_decay, for the leaves in the mask."""

    def factor(count) -> jax.Array:
        return jnp.reciprocal(1.0 + schedule_value(rate, count) * schedule_value(decay, count))

    link = scale_by_schedule(factor) if callable(rate) or callable(decay) else scale(factor(jnp.zeros((), jnp.int32)))
    return link if mask is None else masked(link, mask)


def adan(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.98,
    b2: ArrayLike = 0.92,
    b3: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    proximal: bool = False,
) -> GradientTransformation:
    """AdamW with Nesterov momentum from gradient differences.

    Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models" (2022, arXiv 2208.06677).
    d is the difference from the previous gradient, initially 0; hats divide by 1 - b^t. Descends from :func:`adamw`::

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) d
        n <- b3 n + (1 - b3) (g + b2 d)^2
        p <- p - lr ((m_hat + b2 v_hat) / (sqrt(n_hat + eps_root) + eps) + weight_decay p)

    Notation: the paper's betas are 1 - b1, 1 - b2, 1 - b3; the authors' code uses b1, b2, b3.

    Departures from Optax: the differences have the weight b2 = 0.92, the paper's 1 - beta_2, in n and in the step; in
    Optax it is 1 - b2 = 0.08, which loses most of the Nesterov momentum. The authors' code has ``eps_root=0.0``, and by
    default proximal decay, p <- (p - lr u) / (1 + lr weight_decay): ``proximal=True``.

    Args:
      learning_rate: a number or a schedule; 5 to 10 times Adam's.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of the differences, and their weight, in [0, 1).
      b3: decay of the mean of the square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      proximal: decay by division, after the step.

    Returns:
      A transformation; 16 bytes of state per float32 parameter.

    >>> tx, params = adan(0.1, eps_root=0.0), jnp.float32(0.0)
    >>> state = tx.init(params)
    >>> for grad in (1.0, 2.0):
    ...     updates, state = tx.update(jnp.float32(grad), state, params)
    ...     print(round(updates.item(), 3))
    -0.1
    -0.091
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        *((_shrink(learning_rate, weight_decay, mask),) if proximal else ()),
    )
