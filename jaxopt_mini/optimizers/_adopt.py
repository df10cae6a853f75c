"""ADOPT: Adam that divides each gradient by the second moment of the previous step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByAdamState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Schedule,
    require_real,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_function, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, cast_like, increment, select, widen, zeros_like


def fourth_root(count: jax.Array) -> jax.Array:
    """The paper's clipping bound: t^(1/4)."""
    return count**0.25


def scale_by_adopt(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9999,
    eps: ArrayLike = 1e-6,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = fourth_root,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adopt`, without the learning rate.

    Args:
      b1: see :func:`adopt`, like the other arguments.
      b2: decay of the mean of the squared gradient, in [0, 1).
      eps: least denominator.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum.
      use_clipping: clip the divided gradient.
      clip_value_fn: number of completed steps (float32[]) -> bound.

    Returns:
      A transformation with an ``optax.ScaleByAdamState``, with count int32[], mu and nu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps)
    check_function(clip_value_fn=clip_value_fn)

    def init(params):
        require_real(params, "adopt")  # it clips
        return ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        first = state.count == 0
        bound = clip_value_fn(state.count.astype(jnp.float32)) if use_clipping else jnp.inf

        def divided(g, v):
            n = widen(g) / jnp.maximum(jnp.sqrt(widen(v)), eps)
            # In the first call v is 0, and only v changes.
            return jnp.where(first, 0, jnp.clip(n, -bound, bound))

        n = jax.tree.map(divided, updates, state.nu)
        mu = average(n, state.mu, b1)
        squares = jax.tree.map(absolute_square, updates)
        nu = select(first, squares, average(squares, state.nu, b2))
        direction = cast_like(average(n, mu, b1) if nesterov else mu, updates)
        return direction, ScaleByAdamState(increment(state.count), cast_like(mu, state.mu), cast_like(nu, state.nu))

    return transformation(init, update)


def adopt(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.9999,
    eps: ArrayLike = 1e-6,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[jax.Array], jax.Array] = fourth_root,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """Adam divided by the second moment of the previous step.

    Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any b2 with the Optimal Rate" (2024, arXiv 2411.02853).
    Descends from :func:`adam`. In step t = 1, 2, ... after a first call that only sets v to g^2::

        n = clip(g / max(sqrt(v), eps), -t^(1/4), t^(1/4))
        m <- b1 m + (1 - b1) n
        p <- p - lr (m + weight_decay p)
        v <- b2 v + (1 - b2) g^2

    v excludes the gradient that it divides; including it makes Adam diverge for a small b2. m averages gradients that
    are already divided, as in :func:`laprop`. There is no bias correction.

    Departures: Optax's ``adopt`` has no weight decay. As in the official code, the first call doesn't decay; to decay
    there too, use ``chain(scale_by_adopt(), add_decayed_weights(w), scale_by_learning_rate(lr))``. For the official
    ``decouple=False``, an L2 penalty, use ``chain(add_decayed_weights(w), adopt(lr))``. Optax computes 1 - b2 in
    float32, for b2 = 0.9999 with an error of 2e-4.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamw`.
      b1: decay of the mean of the divided gradient, in [0, 1).
      b2: decay of the mean of the squared gradient, in [0, 1).
      eps: least denominator.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum.
      use_clipping: clip the divided gradient; False is the first version of the paper.
      clip_value_fn: number of completed steps (float32[]) -> bound.
      weight_decay: a number or a schedule, times the learning rate; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = adopt(0.1)
    >>> params = grads = jnp.float32(2.0)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(grads, state, params)
    ...     print(round(updates.item(), 4))
    -0.0
    -0.01
    -0.019
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)

    decay = () if weight_decay is None else (add_decayed_weights(_from_second_call(weight_decay), mask),)
    how = {"nesterov": nesterov, "use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return chain(
        scale_by_adopt(b1, b2, eps, mu_dtype, **how),
        *decay,
        scale_by_learning_rate(learning_rate),
    )


def _from_second_call(weight_decay: ScalarOrSchedule) -> Schedule:
    return lambda count: jnp.where(count == 0, 0.0, schedule_value(weight_decay, jnp.asarray(count)))
