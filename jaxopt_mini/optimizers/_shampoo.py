"""Shampoo: a Kronecker-factored preconditioner, the inverse fourth root of a Gram matrix on each side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, Updates
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import eigh, multiply
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    grams,
    load_sides,
    map_matrices,
    matrix_shapes,
    on_sides,
    resolve_layout,
    sides,
    square_sides,
    store_sides,
    unzip,
)
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    absolute_square,
    average,
    bias_correction,
    cast_like,
    increment,
    is_multiple,
    norm,
    refuse_integers,
    widen,
    zeros_like,
    zeros_of,
)

TINY = 1e-30  # keeps a factor of zeros from dividing by zero


class ScaleByShampooState(NamedTuple):
    """State of :func:`scale_by_shampoo`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # like the parameters, float32: Adam's, for grafting
    factors: tuple[Any, Any]  # averaged Gram matrices of inputs and outputs: (*stacked, side, side), or () for none
    roots: tuple[Any, Any]  # their inverse roots as of the last refresh


def scale_by_shampoo(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    shampoo_beta: ArrayLike | None = None,
    ridge: ArrayLike = 1e-6,
    graft: bool = True,
    precondition_frequency: int | jax.Array = 10,
    max_precond_dim: int | jax.Array = 8192,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`shampoo`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleByShampooState`.
    """
    check_fraction(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check_nonnegative(eps=eps, ridge=ridge, max_precond_dim=max_precond_dim)
    check_static(max_precond_dim=max_precond_dim)
    check_at_least_one(precondition_frequency=precondition_frequency)
    max_precond_dim = int(max_precond_dim)
    beta = b2 if shampoo_beta is None else shampoo_beta

    def inverse_root(factor, power):
        values, vectors = eigh(factor)
        # A lower bound hides rounding errors of zero eigenvalues, an added eps would not.
        values = jnp.maximum(values, ridge * values[-1] + TINY)
        return multiply(vectors * values[None, :] ** -power, vectors.conj().mT)

    def init(params):
        refuse_integers(params)
        entries = resolve_layout(layout, params)
        matrices = matrix_shapes(params, entries)
        factors, roots = (square_sides(entries, matrices, max_precond_dim) for _ in range(2))
        nu = zeros_of(lambda tree: jax.tree.map(absolute_square, tree), params)
        return ScaleByShampooState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), nu, factors, roots)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        due = is_multiple(state.count, precondition_frequency)
        mu = average(updates, state.mu, b1)
        nu = average(jax.tree.map(absolute_square, updates), state.nu, b2)
        m, v = bias_correction(mu, b1, count), bias_correction(nu, b2, count)
        adam = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), m, v)

        def one(g, m, adam, factors, roots):
            factors = sides(lambda old, new: average(new, old, beta), factors, grams(g))
            present = len(jax.tree.leaves(factors))
            if not present:
                return adam, factors, roots

            def renew():
                return sides(lambda factor: inverse_root(factor, 0.5 / present), factors)

            roots = jax.lax.cond(due, renew, lambda: roots)
            step = on_sides(m, roots)
            if graft:
                step = step * (norm(adam) / (norm(step) + TINY))
            return step, factors, roots

        given = (as_matrices(tree, entries) for tree in (jax.tree.map(widen, updates), m, adam))
        pairs = (load_sides(stored, entries) for stored in (state.factors, state.roots))
        step, *pairs = unzip(map_matrices(one, entries, *given, *pairs), entries, 3)
        factors, roots = (store_sides(tree, entries) for tree in pairs)
        step = cast_like(as_leaves(step, entries, updates), updates)
        return step, ScaleByShampooState(count, cast_like(mu, state.mu), nu, factors, roots)

    return keep_shardings(init, update)


def shampoo(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    shampoo_beta: ArrayLike | None = None,
    ridge: ArrayLike = 1e-6,
    graft: bool = True,
    precondition_frequency: int | jax.Array = 10,
    max_precond_dim: int | jax.Array = 8192,
    weight_decay: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Preconditions both sides of a matrix; Adam's step size.

    Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization" (2018, arXiv 1802.09568); averages,
    grafting and periodic refresh: Anil et al. 2020, arXiv 2002.09018; Shi et al. 2023, arXiv 2309.06497.
    Descends from :func:`adagrad`. For a matrix g (m, n), with Adam's step a and mean m_hat::

        L <- b L + (1 - b) g g'             R <- b R + (1 - b) g' g
        s = L^(-1/4) m_hat R^(-1/4)         p <- p - lr (s |a| / |s| + weight_decay p)

    If one side is longer than ``max_precond_dim``, only the other is preconditioned, with power -1/2. Vectors use
    Adam's step. Up to |a|, rotating the inputs and outputs of the gradient rotates the step.

    Departures: eigenvalues have a lower bound relative to the largest instead of an added eps, so that the step depends
    neither on rounding nor on the scale of the gradient; matrices are not divided into blocks.

    Args:
      learning_rate: a number or a schedule; Adam's.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added to Adam's root.
      shampoo_beta: decay b of L and R, in [0, 1); None is ``b2``.
      ridge: lower bound of the eigenvalues of L and R in the roots, relative to the largest.
      graft: scale s to the norm of a; otherwise the step is s, and the best learning rate depends on the shape.
      precondition_frequency: steps between updates of the roots.
      max_precond_dim: longest side with a factor.
      weight_decay: a number or a schedule, times the learning rate.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    >>> tx = shampoo(0.1)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[8.0, 0.0], [0.0, 0.5]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0.1]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim, "mu_dtype": mu_dtype}
    return chain(
        scale_by_shampoo(b1, b2, eps, shampoo_beta=shampoo_beta, ridge=ridge, graft=graft, layout=layout, **how),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
