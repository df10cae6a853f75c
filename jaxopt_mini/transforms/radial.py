"""The part of an update along the weights, which changes their norm: scale it, and keep the norm from other changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    no_state,
    require_params,
    schedule_value,
    stateless,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import per_copy
from jaxopt_mini.matrices import resolve_layout
from jaxopt_mini.transforms._scale import scheduled
from jaxopt_mini.tree import chosen_leaves, norm, widen


def _along(u: jax.Array, p: jax.Array) -> jax.Array:
    """<u, p> / |p|, and 0 for weights of zero."""
    size = norm(p)
    return jnp.real(jnp.sum(u * p.conj())) / jnp.where(size > 0, size, jnp.inf)


def brake(
    outward: ArrayLike, inward: ArrayLike, layout: Any | Callable[[Params], Any] | None = None
) -> GradientTransformationExtraArgs:
    """Scales the part of a direction of ascent along the weights.

    Args:
      outward: factor where the descent step lengthens the weights.
      inward: factor where it shortens them.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.

    Returns:
      A transformation whose state has no arrays.

    >>> tx, params = brake(0.5, 1.0), {"w": jnp.array([[2.0, 0.0]])}
    >>> print(tx.update({"w": jnp.array([[-1.0, 3.0]])}, tx.init(params), params)[0]["w"])
    [[-0.5  3. ]]
    """
    check_nonnegative(outward=outward, inward=inward)

    def one(u, p):
        u, p = widen(u), widen(p)
        part, size = _along(u, p), norm(p)
        change = jnp.where(part < 0, outward, inward) - 1
        return u + change * part / jnp.where(size > 0, size, jnp.inf) * p

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "a brake")
        entries = resolve_layout(layout, params)
        new = jax.tree.map(lambda u, p, entry: per_copy(one, entry)(u, p).astype(u.dtype), updates, params, entries)
        return new, state

    return keep_shardings(no_state, update)


def land(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    pin: bool,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """Turns a direction u of ascent into a step, with cautious decay of the new weights.

    With ``pin``, the new weights are scaled to the norm |p| - lr <u, p> / |p|, unless p = 0. Then those whose step is
    towards zero, u p > 0, are multiplied by 1 - lr ``weight_decay``.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: a number or a schedule.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      pin: whether to scale.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.

    Returns:
      A transformation, with the count of steps as its state where a number is a schedule.
    """

    def step(updates, params, numbers):
        rate, decay = numbers
        params = require_params(params, "a step of fixed length")

        def one(u, p, decays):
            wide, old = widen(u), widen(p)
            new = old - rate * wide
            if pin:
                size, moved = norm(old), norm(new)
                target = jnp.maximum(size - rate * _along(wide, old), 1e-8)
                new = new * jnp.where((size > 0) & (moved > 0), target / jnp.where(moved > 0, moved, 1.0), 1.0)
            inwards = decays & (jnp.real(wide * old.conj()) > 0)
            return (jnp.where(inwards, (1 - rate * decay) * new, new) - old).astype(u.dtype)

        def leaf(u, p, entry, decays):
            return per_copy(lambda u, p: one(u, p, decays), entry)(u, p)

        return jax.tree.map(leaf, updates, params, resolve_layout(layout, params), chosen_leaves(mask, params))

    if callable(learning_rate) or callable(weight_decay):
        both = lambda count: (schedule_value(learning_rate, count), schedule_value(weight_decay, count))
        return scheduled(step, both)
    return stateless(lambda updates, params: step(updates, params, (learning_rate, weight_decay)))
