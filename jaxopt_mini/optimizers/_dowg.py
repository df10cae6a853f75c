"""DoWG: DoG with gradient norms weighted by the distance from the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import DoWGState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    identity,
    no_state,
    require_params,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import cast_like, copied, distance_between, norm, scalar_dtype, times, widen


def scale_by_dowg(
    init_estim_sq_dist: ArrayLike | None = None, eps: ArrayLike = 1e-4
) -> GradientTransformationExtraArgs:
    """The direction of :func:`dowg`, without the factor ``learning_rate``.

    Args:
      init_estim_sq_dist: the initial estimate of the squared distance; None is ``eps``.
      eps: added to the root.

    Returns:
      A transformation with an ``optax.contrib.DoWGState``.
    """
    check_nonnegative(init_estim_sq_dist=init_estim_sq_dist, eps=eps)
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist

    def init(params):
        no_state(params)  # rejects integers
        dtype = scalar_dtype(params)
        return DoWGState(
            init_params=copied(params),
            weighted_sq_norm_grads=jnp.zeros((), dtype),
            estim_sq_dist=jnp.array(first, dtype),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "dowg")
        r2 = jnp.maximum(widen(state.estim_sq_dist), jnp.square(distance_between(state.init_params, params)))
        total = widen(state.weighted_sq_norm_grads) + r2 * jnp.square(norm(updates))
        rate = r2 / (jnp.sqrt(total) + eps)
        new = DoWGState(state.init_params, total, r2)
        return jax.tree.map(lambda g: times(g, rate), updates), cast_like(new, state)

    return transformation(init, update)


def dowg(
    learning_rate: ScalarOrSchedule | None = 1.0,
    init_estim_sq_dist: ArrayLike | None = None,
    eps: ArrayLike = 1e-4,
    weight_decay: ArrayLike | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """DoG with distance-weighted gradients, for larger steps.

    Khaled, Mishchenko, Jin, "DoWG Unleashed: An Efficient Universal Parameter-Free Gradient Descent Method" (2023,
    arXiv 2305.16284), with one learning rate for the whole tree. Descends from :func:`dog`::

        r2 <- max(r2, |p - p0|^2)
        G <- G + r2 |g|^2
        p <- p - lr r2 / (sqrt(G) + eps) g

    Early steps, near the start, have less weight than in :func:`dog`, so that the learning rate grows faster.

    Departures: none from Optax. With bfloat16 parameters r2 and G are bfloat16, as in Optax.

    Args:
      learning_rate: factor of the estimated learning rate, a number or a schedule.
      init_estim_sq_dist: the initial r2; None is ``eps``.
      eps: added to the root.
      weight_decay: added to the gradient, times the parameter; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> tx = dowg(init_estim_sq_dist=0.01, eps=0.0)
    >>> params = grads = {"w": jnp.array([3.0, 4.0])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates["w"].round(4))
    [-0.06 -0.08]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dowg(init_estim_sq_dist, eps),
        scale_by_learning_rate(learning_rate),
    )
