"""Hyperball: matrices keep their norm and move by a fixed fraction of it, whatever the size of the update."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import ROLES, ParamLayout, resolve
from jaxopt_mini.transforms.trust import tensor_norm
from jaxopt_mini.tree import evaluate, increment, widen
from jaxopt_mini.wrappers._conditional import per_update


class HyperballState(NamedTuple):
    """State of :func:`hyperball`."""

    count: jax.Array  # int32[]: completed steps, for the schedule
    norms: Any  # float32: Frobenius norm of each initial matrix, with axes of length 1
    inner_state: OptState


def _unit(leaf: jax.Array, entry: ParamLayout) -> jax.Array:
    size = tensor_norm(leaf, entry)
    return widen(leaf) / jnp.maximum(size, jnp.finfo(size.dtype).tiny)


@per_update
def hyperball(
    inner: GradientTransformation,
    *,
    learning_rate: ScalarOrSchedule = 0.02,
    weight_decay: ArrayLike = 0.0,
    roles: Collection[str] = ("matrix",),
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """Fixes the norms of weights and updates.

    Wen, Dang, Lyu, Ma, Liang, "Hyperball Optimization" (2026, arXiv 2606.16899)::

        q = p (1 - learning_rate weight_decay) + learning_rate R u / |u|         R = |p_0|, the initial norm
        p <- R q / |q|

    u is the inner update; for a matrix only its direction matters, not the inner learning rate. All other parameters,
    and matrices initialized to zero, are updated by u. If AdamW's learning rate is b and its weight decay w,
    ``learning_rate`` is about sqrt(b w). AdamH and MuonH
    (modded-nanogpt, levanter) are ``hyperball(adam(1.0))`` and ``hyperball(muon(1.0))`` with all parameters in
    ``roles`` that have two axes.

    Args:
      inner: a complete optimizer, without weight decay on the matrices.
      learning_rate: norm of a step relative to the norm of the weights; a number or a schedule.
      weight_decay: shrinks p before the step, which makes the step larger relative to it; 0 in the paper.
      roles: roles of the parameters with a fixed norm, out of "matrix", "embedding", "head" and "vector".
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with a :class:`HyperballState`, with the state of ``inner``, 4 bytes, and 4 per matrix.

    Raises:
      ValueError: an argument is out of range, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import sgd
    >>> tx = hyperball(sgd(1.0), learning_rate=0.75)
    >>> params = {"w": jnp.array([[4.0, 0.0]])}
    >>> updates, _ = tx.update({"w": jnp.array([[0.0, -9.0]])}, tx.init(params), params)
    >>> print(params["w"] + updates["w"])  # (4, 3), back on the circle of radius 4
    [[3.2 2.4]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    if unknown := set(roles) - set(ROLES):
        raise ValueError(f"unknown roles={sorted(unknown)}: choose from {', '.join(ROLES)}")
    inner = with_extra_args_support(inner)

    def init(params):
        entries = resolve(layout, params)

        def norms(tree):
            return jax.tree.map(lambda p, e: tensor_norm(p, e) if e.role in roles else jnp.zeros(()), tree, entries)

        return HyperballState(jnp.zeros((), jnp.int32), evaluate(norms, params), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "hyperball")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        rate = schedule_value(learning_rate, state.count)

        def project(u, p, radius, entry):
            if entry.role not in roles:
                return u
            moved = (1 - rate * weight_decay) * widen(p) + rate * radius * _unit(u, entry)
            step = radius * _unit(moved, entry) - widen(p)
            return jnp.where(radius > 0, step, widen(u)).astype(u.dtype)

        new = jax.tree.map(project, new, params, state.norms, resolve(layout, params))
        return new, HyperballState(increment(state.count), state.norms, inner_state)

    return transformation(init, update)
