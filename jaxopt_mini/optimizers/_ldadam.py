"""LDAdam: Adam in a subspace of the gradient that turns at every step, with error feedback."""

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
from jaxopt_mini.linalg import multiply, orthonormal, singular_vectors
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    map_matrices,
    matrices_and_rest,
    matrix_shapes,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    average,
    bias_correction,
    cast_like,
    increment,
    refuse_integers,
    total_weight,
    zeros_like,
)

SIDES = ("shorter", "longer", "inputs", "outputs")
PROJECTIONS = ("power_iteration", "svd")


class ScaleByLdadamState(NamedTuple):
    """State of :func:`scale_by_ldadam`; the arrays of a matrix start with its stacked axes, all float32."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # of the projected gradient: (rank, outputs) or (inputs, rank)
    nu: Updates
    projector: Updates  # (projected side, rank), orthonormal columns
    error: Updates  # like the parameters: left out so far; () without error feedback


def scale_by_ldadam(
    rank: int | jax.Array = 16,
    *,
    b1: ArrayLike = 0.908,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    rho: ArrayLike = 0.908,
    side: str = "shorter",
    projection: str = "power_iteration",
    error_feedback: bool = True,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`ldadam` on a tree of matrices, with the same arguments.

    Returns:
      A transformation with a :class:`ScaleByLdadamState`.
    """
    check_fraction(b1=b1, b2=b2, rho=rho)
    check_nonnegative(eps=eps)
    check_static(rank=rank)
    check_at_least_one(rank=rank)
    check_name(side, SIDES, "unknown side")
    check_name(projection, PROJECTIONS, "unknown projection")
    rank = int(rank)

    def projects_inputs(fan_in, fan_out):
        """Of two equal sides, the outputs are projected."""
        return {"inputs": True, "outputs": False, "shorter": fan_in < fan_out, "longer": fan_in > fan_out}[side]

    def init(params):
        refuse_integers(params)
        require_real(params, "ldadam")
        entries = resolve_layout(layout, params)
        matrices = matrix_shapes(params, entries)

        def zeros(of):
            def one(matrix):
                *stack, fan_in, fan_out = matrix.shape
                sizes = (fan_in, fan_out) if projects_inputs(fan_in, fan_out) else (fan_out, fan_in)
                return jnp.zeros((*stack, *of(min(rank, *sizes), *sizes)), jnp.float32)

            return jax.tree.map(one, matrices)

        mu, nu = (zeros(lambda rank, side, other: (rank, other)) for _ in range(2))
        error = zeros_like(params, jnp.float32) if error_feedback else jax.tree.map(lambda _: jnp.zeros(()), params)
        projector = zeros(lambda rank, side, other: (side, rank))
        return ScaleByLdadamState(jnp.zeros((), jnp.int32), mu, nu, projector, error)

    def turned(b, p, first):
        """The first left singular vectors of b, or one power iteration towards them."""
        exact = lambda: singular_vectors(b)[0][:, : p.shape[1]]
        if projection == "svd":
            return exact()
        return jax.lax.cond(first, exact, lambda: orthonormal(multiply(b, multiply(b.mT, p))))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        first, before = count == 1, jnp.maximum(state.count, 1)
        w1, w2 = total_weight(b1, before), total_weight(b2, before)

        def one(g, m, v, p):
            """A step of a matrix whose rows are projected, and what it leaves out."""
            q = turned(average(g, multiply(p, m) / w1, rho), p, first)
            r, turn = multiply(q.mT, g), multiply(q.mT, p)
            m2 = multiply(turn, m)
            error = g - multiply(q, r) + b1 / (1 - b1) * (multiply(p, m) - multiply(q, m2))
            variance = multiply(jnp.square(turn), v / w2 - jnp.square(m / w1))
            v = jnp.where(first, v, w2 * jnp.abs(variance + jnp.square(m2 / w1)))
            m, v = average(r, m2, b1), average(jnp.square(r), v, b2)
            n = bias_correction(m, b1, count) / (jnp.sqrt(bias_correction(v, b2, count)) + eps)
            return multiply(q, n), m, v, q, error

        def either(g, m, v, p, error):
            g = g + error if error_feedback else g
            if not g.size:
                return g, m, v, p, error
            if projects_inputs(*g.shape):
                step, *new, left_out = one(g, m, v, p)
            else:
                step, *new, left_out = one(g.mT, m, v, p)
                step, left_out = step.mT, left_out.mT
            return step, *new, left_out if error_feedback else error

        [g] = wide_matrices(entries, updates)
        error = as_matrices(state.error, entries) if error_feedback else jax.tree.map(lambda _: None, g)
        step, mu, nu, projector, error = unzip(map_matrices(either, entries, g, *state[1:4], error), entries, 5)
        error = as_leaves(error, entries, updates) if error_feedback else state.error
        step = cast_like(as_leaves(step, entries, updates), updates)
        return step, ScaleByLdadamState(count, mu, nu, projector, error)

    return keep_shardings(init, update)


def ldadam(
    learning_rate: ScalarOrSchedule,
    *,
    rank: int | jax.Array = 16,
    b1: ArrayLike = 0.908,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    rho: ArrayLike = 0.908,
    side: str = "shorter",
    projection: str = "power_iteration",
    error_feedback: bool = True,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam in a subspace that follows the gradient at every step.

    Robert, Safaryan, Modoranu, Alistarh, "LDAdam: Adaptive Optimization from Low-Dimensional Gradient Statistics"
    (2024, arXiv 2410.16103). Descends from :func:`galore`. For a matrix g (m, n), with the error e so far and the last
    subspace P (m, rank)::

        a = g + e                         b = rho P m_hat + (1 - rho) a
        Q = qr(b b' P)                    r = Q' a
        C = Q' P                          e <- a - Q r + b1 / (1 - b1) (P m - Q C m)
        v_hat <- |C^2 (v_hat - m_hat^2) + (C m_hat)^2|        m <- C m
        p <- p - lr (Q adam(r) + weight_decay p)

    with m_hat and v_hat corrected for their zero start, and C squared by entries.
    The moments are carried into the new subspace, and what the projections leave out is added to the next gradient. The
    first subspace is that of the gradient's first singular vectors. Other leaves use :func:`adam`.

    Args:
      learning_rate: a number or a schedule; Adam's.
      rank: rank of the subspace; at most the shorter side.
      b1: decay of the mean of r, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added to the root.
      rho: share of the momentum in b, in [0, 1).
      side: projected side, the "shorter" or "longer" one, "inputs" or "outputs".
      projection: "power_iteration" as above, or "svd", the first singular vectors of b.
      error_feedback: add what was left out to the next gradient.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; for m <= n, 8 rank / m + 4 rank / n bytes of state per parameter of a matrix, and 4 for e.

    Raises:
      ValueError: a number is out of range, or a name is unknown.

    >>> tx = ldadam(0.1, rank=1)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[5.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0. ]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"b1": b1, "b2": b2, "eps": eps, "rho": rho, "side": side, "projection": projection}
    matrices = scale_by_ldadam(rank, error_feedback=error_feedback, layout=layout, **how)
    return chain(
        matrices_and_rest({"matrices": matrices, "rest": scale_by_adam(b1, b2, eps)}, layout),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
