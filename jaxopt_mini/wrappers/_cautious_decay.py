"""Cautious weight decay: a weight decays only where the update doesn't move it away from zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.tree import chosen_leaves, increment, widen
from jaxopt_mini.wrappers._conditional import per_update


class CautiousDecayState(NamedTuple):
    """State of :func:`cautious_decay`."""

    count: jax.Array  # int32[]: completed steps, for the schedule
    inner_state: OptState


def _decayed(update: jax.Array, param: jax.Array, rate: ArrayLike) -> jax.Array:
    wide, p = widen(update), widen(param)
    outwards = jnp.real(jnp.conj(jnp.sign(wide)) * jnp.sign(p)) > 0
    return jnp.where(outwards, wide, wide - rate * p).astype(update.dtype)


@per_update
def cautious_decay(
    inner: GradientTransformation,
    *,
    weight_decay: ArrayLike = 0.1,
    learning_rate: ScalarOrSchedule = 1e-3,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """Weight decay of entries that don't move away from zero.

    Chen et al., "Cautious Weight Decay" (2025, arXiv 2510.12402)::

        u <- u - learning_rate weight_decay p (u p <= 0)        u: the inner update, which is added to p

    Plain decay changes the objective; this one preserves the stationary points of the loss. Unlike :func:`cautious`, it
    neither drops nor enlarges entries of the update.

    Args:
      inner: a complete optimizer without weight decay.
      weight_decay: times the learning rate; 0.1 is usual.
      learning_rate: the learning rate of ``inner``, a number or a schedule.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation with a :class:`CautiousDecayState`, with the state of ``inner`` and 4 bytes.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import sgd
    >>> tx = cautious_decay(sgd(0.1), weight_decay=0.5, learning_rate=0.1)
    >>> params = {"w": jnp.array([2.0, -2.0])}
    >>> updates, _ = tx.update({"w": jnp.array([1.0, 1.0])}, tx.init(params), params)
    >>> print(updates["w"])
    [-0.2 -0.1]
    """
    check_nonnegative(weight_decay=weight_decay, learning_rate=learning_rate)
    inner = with_extra_args_support(inner)

    def init(params):
        return CautiousDecayState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "cautious_decay")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        rate = weight_decay * schedule_value(learning_rate, state.count)
        decayed = lambda take, u, p: _decayed(u, p, rate) if take else u
        new = jax.tree.map(decayed, chosen_leaves(mask, params), new, params)
        return new, CautiousDecayState(increment(state.count), inner_state)

    return transformation(init, update)
