"""Simplified AdEMAMix: one momentum plus a weighted current gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import ScaleBySimplifiedAdEMAMixState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, widen, zeros_like


def scale_by_simplified_ademamix(
    b1: ArrayLike = 0.99,
    b2: ArrayLike = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`simplified_ademamix`, without decay and learning rate.

    Args:
      b1: see :func:`simplified_ademamix`, like the other arguments.
      b2: decay of the mean of the squared gradient, in [0, 1).
      alpha: weight of the current gradient, a number or a schedule.
      eps: added outside the root.
      eps_root: added inside the root.

    Returns:
      A transformation with the state type of Optax's version, with t int32[], m and n like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(alpha=alpha, eps=eps, eps_root=eps_root)

    def init(params):
        return ScaleBySimplifiedAdEMAMixState(jnp.zeros((), jnp.int32), zeros_like(params), zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        t, a = increment(state.t), schedule_value(alpha, state.t)
        m = jax.tree.map(lambda g, m: widen(g) + b1 * widen(m), updates, state.m)
        n = average(jax.tree.map(absolute_square, updates), state.n, b2)
        v = bias_correction(n, b2, t)
        direction = jax.tree.map(lambda g, m, v: (m + a * widen(g)) / (jnp.sqrt(v + eps_root) + eps), updates, m, v)
        new = ScaleBySimplifiedAdEMAMixState(t, cast_like(m, state.m), cast_like(n, state.n))
        return cast_like(direction, updates), new

    return transformation(init, update)


def simplified_ademamix(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.99,
    b2: ArrayLike = 0.95,
    alpha: ScalarOrSchedule = 0.0,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """AdEMAMix with one momentum plus the current gradient.

    Morwani et al., "Connections between Schedule-Free Optimizers, AdEMAMix, and Accelerated SGD Variants" (2025, arXiv
    2502.02431). Descends from :func:`ademamix`::

        m <- b1 m + g
        v <- b2 v + (1 - b2) g^2         v_hat = v / (1 - b2^t)
        p <- p - lr ((m + alpha g) / (sqrt(v_hat) + eps) + weight_decay p)

    One momentum replaces the two of :func:`ademamix`: m is the slow one, alpha g the fast one. m is a sum, so steps
    grow to 1 / (1 - b1) times Adam's and the learning rate must be smaller by this factor. With alpha = 0 it is Adam
    without bias correction of m.

    Departures: none.

    Args:
      learning_rate: a number or a schedule; :func:`adamw`'s times 1 - b1.
      b1: decay of the sum, in [0, 1); 0.99 to 0.9999.
      b2: decay of the mean of the squared gradient, in [0, 1).
      alpha: weight of the current gradient, a number or a schedule; 0 for large batches, up to 100 for small ones.
      eps: added outside the root.
      eps_root: added inside the root.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = simplified_ademamix(0.1, b1=0.5, alpha=1.0)
    >>> params = grads = jnp.float32(2.0)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(grads, state, params)
    ...     print(round(updates.item(), 4))
    -0.2
    -0.25
    -0.275
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
