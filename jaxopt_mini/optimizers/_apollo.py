"""APOLLO and Fira: the full gradient, scaled as Adam scales its low-rank projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Updates,
    require_real,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_name, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply, singular_vectors
from jaxopt_mini.matrices import (
    as_leaves,
    map_matrices,
    matrices_and_rest,
    matrix_shapes,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.late_decay import decay_afterwards
from jaxopt_mini.tree import cast_like, increment, is_multiple, norm, refuse_integers, total_weight

PROJECTIONS = ("random", "svd")
GRANULARITIES = ("channel", "tensor")
TINY = 1e-8  # from the official code; added to norms


class ScaleByApolloState(NamedTuple):
    """State of :func:`scale_by_apollo`; the arrays of a matrix start with its stacked axes, all float32."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # of the projected gradient: (rank, longer side) or (longer side, rank)
    nu: Updates
    projector: Updates  # (shorter side, rank)
    size: Updates  # (1,): norm of the last scaled gradient


def scale_by_apollo(
    rank: int | jax.Array = 128,
    update_proj_gap: int | jax.Array = 200,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    scale: ArrayLike = 1.0,
    projection: str = "random",
    granularity: str = "channel",
    residual: bool = False,
    scale_first: bool = False,
    growth_limit: ArrayLike | None = 1.01,
    seed: int | jax.Array = 0,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`apollo` on a tree of matrices, with the same arguments.

    Returns:
      A transformation with a :class:`ScaleByApolloState`.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, scale=scale)
    check_static(rank=rank)
    check_at_least_one(rank=rank, update_proj_gap=update_proj_gap, growth_limit=growth_limit)
    check_name(projection, PROJECTIONS, "unknown projection")
    check_name(granularity, GRANULARITIES, "unknown granularity")
    rank = int(rank)

    def init(params):
        refuse_integers(params)
        require_real(params, "apollo")
        matrices = matrix_shapes(params, resolve_layout(layout, params))

        def zeros(shape):
            return lambda m: jnp.zeros((*m.shape[:-2], *shape(*m.shape[-2:])), jnp.float32)

        low = lambda fan_in, fan_out: (rank, fan_out) if fan_in <= fan_out else (fan_in, rank)
        shapes = (low, low, lambda fan_in, fan_out: (min(fan_in, fan_out), rank), lambda *_: (1,))
        trees = (jax.tree.map(zeros(shape), matrices) for shape in shapes)
        return ScaleByApolloState(jnp.zeros((), jnp.int32), *trees)

    def basis(g, count):
        """A new projector of a matrix with at most as many rows as columns."""
        if projection == "svd" and g.size:
            u = singular_vectors(g)[0][:, :rank]
            return jnp.pad(u, ((0, 0), (0, rank - u.shape[1])))
        key = jax.random.fold_in(jax.random.key(seed), count)
        return jax.random.normal(key, (len(g), rank), g.dtype) * rank**-0.5

    def update(updates, state, params=None, *, projector=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        due = is_multiple(state.count, update_proj_gap)
        correction = jnp.sqrt(total_weight(b2, count)) / total_weight(b1, count)

        def one(g, m, v, p, size, given):
            if g.shape[0] > g.shape[1]:
                step, m, v, p, size = one(g.mT, m.mT, v.mT, p, size, given)
                return step.mT, m.mT, v.mT, p, size
            p = jax.lax.cond(due, lambda: basis(g, state.count), lambda: p) if given is None else given
            r = multiply(p.mT, g)
            m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * jnp.square(r)
            n = m / (jnp.sqrt(v) + eps)
            axis = 0 if granularity == "channel" else None
            length = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
            factor = length(n) / (length(r) + TINY)
            w = (g - scale * multiply(p, r) if residual else g) * factor
            root = 1.0 if residual else jnp.sqrt(jnp.asarray(scale, jnp.float32))
            w = w * root if scale_first else w
            if growth_limit is not None:
                growth = norm(w) / (size[0] + TINY)
                limit = jnp.where(state.count > 0, jnp.maximum(growth, growth_limit) / growth_limit, 1.0)
                w = w / limit
            size = norm(w)[None]
            w = w if scale_first else w * root
            return correction * (scale * multiply(p, n) + w if residual else w), m, v, p, size

        [g] = wide_matrices(entries, updates)
        given = jax.tree.map(lambda _: None, g) if projector is None else projector
        step, *new = unzip(map_matrices(one, entries, g, *state[1:], given), entries, 5)
        new = (cast_like(tree, old) for tree, old in zip(new, state[1:], strict=True))
        return cast_like(as_leaves(step, entries, updates), updates), ScaleByApolloState(count, *new)

    return keep_shardings(init, update)


def apollo(
    learning_rate: ScalarOrSchedule,
    *,
    rank: int | jax.Array = 128,
    update_proj_gap: int | jax.Array = 200,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    scale: ArrayLike = 1.0,
    projection: str = "random",
    granularity: str = "channel",
    residual: bool = False,
    scale_first: bool = False,
    growth_limit: ArrayLike | None = 1.01,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    seed: int | jax.Array = 0,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam's step sizes from a low-rank projection, applied to the full gradient.

    Zhu et al., "APOLLO: SGD-like Memory, AdamW-level Performance" (2024, arXiv 2412.05270). Descends from
    :func:`galore`. For a matrix g (m, n), m <= n, and a random matrix P (m, rank) that is replaced every
    ``update_proj_gap`` steps::

        r = P' g                          n = adam(r)
        w_j = g_j |n_j| / |r_j|
        p <- p - lr sqrt(scale) w         p <- p - lr weight_decay p

    The second line holds for each column j. w is scaled down where its norm would grow by more than 1 % per step.

    APOLLO-Mini is ``rank=1, granularity="tensor", scale=128.0``: one factor for the whole matrix. Fira (Chen et al.
    2024, arXiv 2410.01623) scales only what the projection leaves out, and adds the projected step:
    ``residual=True, projection="svd"``, with scale (P n) and w from g - scale P r.

    Departures: leaves other than matrices use :func:`adam`, whose eps is added after the bias correction. As in the
    official code, a zero gradient throttles a matrix for hundreds of steps, because the norm then grows from 1e-8 by at
    most 1 % per step; ``growth_limit=None`` removes this limit.

    Args:
      learning_rate: a number or a schedule; 0.01.
      rank: rank of the projection; a quarter of the shorter side is typical.
      update_proj_gap: steps between projections.
      b1: decay of the mean of r, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added to the root, before the bias correction.
      scale: factor of the step, under a root; with ``residual``, of P n.
      projection: "random" or "svd", the first left singular vectors of the gradient.
      granularity: one factor per "channel", an element of the longer side, or per "tensor".
      residual: Fira's step.
      scale_first: multiply by the root of ``scale`` before the limit of growth.
      growth_limit: largest growth of the norm of w per step, at least 1; None is unlimited.
      weight_decay: a number or a schedule, times the learning rate, after the step.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      seed: seed of the random projections.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; for m <= n, 8 rank / m + 4 rank / n bytes of state per float32 parameter of a matrix.

    Raises:
      ValueError: a number is out of range, or a name is unknown.

    >>> tx = apollo(0.1, rank=1)
    >>> params = {"w": jnp.ones((1, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[5.0, -0.2]])}, tx.init(params), params)
    >>> print(bool(jnp.all(jnp.sign(updates["w"]) == jnp.array([[-1.0, 1.0]]))))
    True
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"b1": b1, "b2": b2, "eps": eps, "scale": scale, "seed": seed, "layout": layout, "residual": residual}
    how |= {"projection": projection, "granularity": granularity, "scale_first": scale_first}
    matrices = scale_by_apollo(rank, update_proj_gap, growth_limit=growth_limit, **how)
    return chain(
        matrices_and_rest({"matrices": matrices, "rest": scale_by_adam(b1, b2, eps)}, layout),
        scale_by_learning_rate(learning_rate),
        decay_afterwards(learning_rate, weight_decay, mask),
    )
