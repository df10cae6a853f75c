"""NovoGrad: momentum of gradients that are normalized per tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByNovogradState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.layout import resolve
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, average, cast_like, chosen_leaves, increment, select, widen, zeros_like


def scale_by_novograd(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.25,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`novograd`, without the learning rate.

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of the mean of the squared norm, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      weight_decay: a number or a schedule.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with an ``optax.ScaleByNovogradState``, with count int32[], mu like the parameters, nu one number
      per tensor.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root, weight_decay=weight_decay)

    def squared_norm(leaf, entry):
        return jnp.sum(absolute_square(leaf), entry.inputs + entry.outputs)

    def normalized(grad, nu, entry):
        nu = jnp.expand_dims(nu, entry.inputs + entry.outputs)
        return widen(grad) / (jnp.sqrt(nu + eps_root) + eps)

    def init(params):
        nu = jax.tree.map(squared_norm, zeros_like(params), resolve(layout, params))
        return ScaleByNovogradState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), cast_like(nu, params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params, first = require_params(params, "novograd"), state.count == 0
        entries, decay = resolve(layout, params), schedule_value(weight_decay, state.count)
        squares = jax.tree.map(squared_norm, updates, entries)
        nu = select(first, squares, average(squares, state.nu, b2))
        new = jax.tree.map(normalized, updates, nu, entries)
        moment = lambda u, p, m, decays: b1 * widen(m) + u + (decay * widen(p) if decays else 0.0)
        mu = jax.tree.map(moment, new, params, state.mu, chosen_leaves(mask, params))
        state = ScaleByNovogradState(increment(state.count), cast_like(mu, state.mu), cast_like(nu, state.nu))
        return cast_like(mu, updates), state

    return transformation(init, update)


def novograd(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.25,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Momentum of gradients normalized tensor by tensor.

    Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks" (2019,
    arXiv 1905.11286). Descends from :func:`adam`. For each tensor (per layer in a stack)::

        v <- b2 v + (1 - b2) |g|^2                       v = |g|^2 in the first step
        m <- b1 m + g / (sqrt(v) + eps) + weight_decay p
        p <- p - lr m

    Departures from Optax: Optax treats a stack of layers as one tensor and fails if the weight decay is a schedule.

    Args:
      learning_rate: a number or a schedule; 1e-3 to 1e-2.
      b1: decay of the momentum, in [0, 1).
      b2: decay of the mean of the squared norm, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      weight_decay: a number or a schedule; inside the momentum, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter, and 4 per tensor.

    >>> tx, params = novograd(0.1), {"w": jnp.zeros(2)}
    >>> updates, _ = tx.update({"w": jnp.array([30.0, 40.0])}, tx.init(params), params)
    >>> print(updates["w"].round(2))
    [-0.06 -0.08]
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay, mask=mask, layout=layout),
        scale_by_learning_rate(learning_rate),
    )
