"""Dion: low-rank Muon with error feedback: the part outside the low rank stays in the momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Updates,
    require_real,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply, orthonormal
from jaxopt_mini.matrices import (
    as_leaves,
    map_matrices,
    matrix_shapes,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.tree import cast_like, wide_dtype, zeros_like


class ScaleByDionState(NamedTuple):
    """State of :func:`scale_by_dion`."""

    mu: Updates  # momentum and what was left out, like the parameters
    basis: Updates  # of the input side: (*stacked, inputs, rank), float32


def scale_by_dion(
    beta: ArrayLike = 0.95,
    rank: int | jax.Array = 768,
    eps: ArrayLike = 1e-8,
    *,
    seed: int | jax.Array = 0,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`dion` on a tree of matrices, without the scale by shape.

    Args:
      beta: decay of the momentum, in [0, 1).
      rank: rank of the step, at most the smaller side.
      eps: added to the norms of the columns of the basis.
      seed: seed of the random initial basis, which is the same for all matrices of a shape.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.

    Returns:
      A transformation with a :class:`ScaleByDionState`.

    Raises:
      ValueError: a number is out of range.
    """
    check_fraction(beta=beta)
    check_nonnegative(eps=eps)
    check_static(rank=rank)
    check_at_least_one(rank=rank)
    rank = int(rank)

    def first_basis(matrix):
        *stack, fan_in, fan_out = matrix.shape
        shape = (fan_in, min(rank, fan_in, fan_out))
        basis = jax.random.normal(jax.random.key(seed), shape, wide_dtype(matrix.dtype))
        return jnp.broadcast_to(basis, (*stack, *shape))

    def one(g, m, q):
        if not g.size:
            return g, m, q
        b = m + g
        p = orthonormal(multiply(b.mT, q))
        r = multiply(b, p)
        q = r / (jnp.linalg.norm(r, axis=0, keepdims=True) + eps)
        return multiply(q, p.mT), b - (1 - beta) * multiply(r, p.mT), q

    def init(params):
        require_real(params, "dion")
        matrices = matrix_shapes(params, resolve_layout(layout, params))
        return ScaleByDionState(zeros_like(params, mu_dtype), jax.tree.map(first_basis, matrices))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        g, m = wide_matrices(entries, updates, state.mu)
        new, m, basis = unzip(map_matrices(one, entries, g, m, state.basis), entries, 3)
        new, m = (as_leaves(tree, entries, updates) for tree in (new, m))
        return cast_like(new, updates), ScaleByDionState(cast_like(m, state.mu), basis)

    return keep_shardings(init, update)


def dion(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    rank: int | jax.Array = 768,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    seed: int | jax.Array = 0,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Low-rank Muon that communicates little across devices.

    Ahn et al., "Dion: Distributed Orthonormalized Updates" (2025, arXiv 2504.05295). Descends from :func:`muon`. For a
    matrix in the paper's layout, M (fan-out, fan-in), with the basis Q (fan-in, rank) of the previous step::

        B = M + g          P = qr(B Q)         R = B' P
        M <- B - (1 - beta) P R'               Q <- R, each column divided by its norm
        p <- p - lr (sqrt(fan_out / fan_in) P Q' + weight_decay p)

    One power iteration per step replaces :func:`muon`'s iteration. Only the part of the momentum that was applied
    decays; the rest is kept for later steps. Only P and R need to be communicated between devices. Matrices are given
    by ``layout`` or inferred; AdamW updates the rest.

    Args:
      learning_rate: a number or a schedule; like Muon's, 0.01 to 0.02.
      beta: decay of the momentum, in [0, 1).
      rank: rank of the step, at most the smaller side; at full rank it is Muon with exact orthogonalization.
      eps: added to the norms of the columns of the basis, and to Adam's root.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      seed: seed of the random initial basis.
      adam_b1: AdamW's b1.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 + 4 rank / fan_out bytes of state per float32 parameter of a matrix.
    """
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "layout": layout}
    matrices = chain(
        scale_by_dion(beta, rank, eps, seed=seed, mu_dtype=mu_dtype, layout=layout),
        *scaled_and_decayed(learning_rate, shape="spectral", **reduce),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout, "mu_dtype": mu_dtype}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
