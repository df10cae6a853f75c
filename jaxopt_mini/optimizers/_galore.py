"""GaLore: Adam on a low-rank projection of the gradient, so that its moments take less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import MaskedNode
from optax.contrib import GaLoreState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    with_extra_args_support,
)
from jaxopt_mini.check import check_at_least_one, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply, singular_vectors
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    layout_or_dimension_numbers,
    map_matrices,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.late_decay import decay_afterwards
from jaxopt_mini.tree import cast_like, increment, is_multiple, widen, zeros_like


def scale_by_galore(
    rank: int | jax.Array = 128,
    update_proj_gap: int | jax.Array = 200,
    scale: ArrayLike = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_dimension_numbers: Any | Callable[[Params], Any] | None = None,
    *,
    smaller_side: bool = False,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`galore`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with an ``optax.contrib.GaLoreState``, with count int32[], the inner state, and each matrix's
      projector ``(*stacked, side, rank)``.

    Raises:
      ValueError: a number is out of range.
    """
    layout = layout_or_dimension_numbers(layout, weight_dimension_numbers)
    check_nonnegative(scale=scale)
    check_static(rank=rank)
    check_at_least_one(rank=rank, update_proj_gap=update_proj_gap)
    rank = int(rank)
    base = with_extra_args_support(scale_by_adam() if base_optimizer is None else base_optimizer)

    def acts_left(fan_in, fan_out):
        return fan_in <= fan_out if smaller_side else fan_in >= fan_out

    def project(matrix, projector):
        left = acts_left(*matrix.shape[-2:])
        return multiply(projector.conj().mT, matrix) if left else multiply(matrix, projector)

    def leading(matrix):
        if not matrix.size:
            return first_projector(matrix)
        u, vh = singular_vectors(matrix)
        return (u if acts_left(*matrix.shape) else vh.conj().mT)[:, :rank]

    def first_projector(matrix):
        *stack, fan_in, fan_out = matrix.shape
        side = fan_in if acts_left(fan_in, fan_out) else fan_out
        return jnp.zeros((*stack, side, min(rank, fan_in, fan_out)), matrix.dtype)

    def init(params):
        entries = resolve_layout(layout, params)
        matrices = as_matrices(_only(zeros_like(params), entries), _only(entries, entries))
        projectors = jax.tree.map(first_projector, matrices)
        low = _merge(jax.tree.map(project, matrices, projectors), params, entries)
        empty = jax.tree.map(lambda leaf: jnp.zeros((0, 0), leaf.dtype), params)
        return GaLoreState(jnp.zeros((), jnp.int32), base.init(low), _merge(projectors, empty, entries))

    def update(updates, state, params=None, **extra_args):
        del params
        entries = resolve_layout(layout, updates)
        chosen, old = _only(entries, entries), _only(state.projector, entries)
        due = is_multiple(state.count, update_proj_gap)

        def narrow(g, projector):
            projector = jax.lax.cond(due, lambda: leading(g), lambda: widen(projector))
            return project(g, projector), projector

        def restore(low, projector, g):
            return scale * (multiply(projector, low) if acts_left(*g.shape) else multiply(low, projector.conj().mT))

        [g] = wide_matrices(chosen, _only(updates, entries))
        low, projectors = unzip(map_matrices(narrow, chosen, g, old), chosen)
        low = _merge(cast_like(low, _only(updates, entries)), updates, entries)
        low, inner = base.update(low, state.base_optimizer_state, None, **extra_args)
        step = map_matrices(restore, chosen, jax.tree.map(widen, _only(low, entries)), projectors, g)
        step = _merge(as_leaves(step, chosen, _only(updates, entries)), low, entries)
        projectors = _merge(cast_like(projectors, old), state.projector, entries)
        return cast_like(step, updates), GaLoreState(increment(state.count), inner, projectors)

    return keep_shardings(init, update)


def _only(tree, entries):
    """The tree with only its matrices."""
    return jax.tree.map(lambda entry, sub: sub if entry.role == "matrix" else MaskedNode(), entries, tree)


def _merge(matrices, rest, entries):
    """A tree with the matrices of one tree and the other leaves of another."""
    return jax.tree.map(lambda entry, m, other: m if entry.role == "matrix" else other, entries, matrices, rest)


def galore(
    learning_rate: ScalarOrSchedule | None,
    rank: int | jax.Array = 128,
    update_proj_gap: int | jax.Array = 200,
    scale: ArrayLike = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    weight_dimension_numbers: Any | Callable[[Params], Any] | None = None,
    *,
    smaller_side: bool = False,
    late_decay: bool = False,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam in a low-rank projection of the gradient.

    Zhao et al., "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection" (2024, arXiv 2403.03507).
    Descends from :func:`adam`. For a matrix g (m, n), with P its first ``rank`` left singular vectors, recomputed every
    few steps::

        p <- p - lr (scale P adam(P' g) + weight_decay p)

    or its right singular vectors, on the other side. The moments are kept unchanged from one P to the next. By default
    the numbers and the state are ``optax.contrib.galore``'s, which projects the longer side. The official code projects
    the shorter one and decays after the step: ``smaller_side=True, late_decay=True, scale=0.25``, with a
    ``base_optimizer`` that adds eps before the bias correction.

    Matrices have the role "matrix" in the ``layout``, stacked or not; without a layout, as in Optax, they are the
    leaves with two axes. ``base_optimizer`` updates all other leaves without projection.

    Args:
      learning_rate: a number or a schedule; Adam's, about 0.01 with a scale of 0.25.
      rank: rank of the projection, at most the smaller side; a quarter of it is typical.
      update_proj_gap: steps between projections; 50 to 1000.
      scale: factor of the steps of projected matrices; 0.25 in the paper.
      base_optimizer: optimizer without learning rate that doesn't need the parameters; None is ``scale_by_adam()``.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      weight_dimension_numbers: Optax's form of a layout: ``optax.contrib.GaLoreDimensionNumbers``.
      smaller_side: project the shorter side instead of the longer one: a smaller P, larger moments.
      late_decay: decay the parameters after the step.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`.

    Returns:
      A transformation; for m >= n, 8 rank / m + 4 rank / n bytes of state per float32 parameter of a matrix.

    Raises:
      ValueError: a number is out of range, or both forms of a layout are given.

    >>> tx = galore(0.1, rank=1)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[5.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0. ]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    chosen = layout_or_dimension_numbers(layout, weight_dimension_numbers)
    link = scale_by_galore(rank, update_proj_gap, scale, base_optimizer, smaller_side=smaller_side, layout=chosen)
    if late_decay:
        if learning_rate is None:
            raise ValueError("late_decay needs a learning rate, got None: give one, or omit late_decay")
        return chain(link, scale_by_learning_rate(learning_rate), decay_afterwards(learning_rate, weight_decay, mask))
    return chain(link, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))
