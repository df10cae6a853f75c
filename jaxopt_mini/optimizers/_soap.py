"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

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
from jaxopt_mini.linalg import eigh, multiply, orthonormal
from jaxopt_mini.matrices import (
    Sides,
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
from jaxopt_mini.transforms.late_decay import decay_afterwards
from jaxopt_mini.tree import (
    absolute_square,
    average,
    cast_like,
    increment,
    is_multiple,
    refuse_integers,
    total_weight,
    widen,
    zeros_like,
    zeros_of,
)


class ScaleBySoapState(NamedTuple):
    """State of :func:`scale_by_soap`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # (*stacked, inputs, outputs), in the basis
    factors: tuple[Any, Any]  # averaged Gram matrices of inputs and outputs: (*stacked, side, side), or () for none
    bases: tuple[Any, Any]  # their eigenvectors in columns, by approximately descending eigenvalues


def scale_by_soap(
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    *,
    shampoo_beta: ArrayLike | None = None,
    precondition_frequency: int | jax.Array = 10,
    max_precond_dim: int | jax.Array = 10000,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`soap`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleBySoapState`.
    """
    check_fraction(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check_nonnegative(eps=eps, max_precond_dim=max_precond_dim)
    check_static(max_precond_dim=max_precond_dim)
    check_at_least_one(precondition_frequency=precondition_frequency)
    max_precond_dim = int(max_precond_dim)
    beta = b2 if shampoo_beta is None else shampoo_beta

    def init(params):
        refuse_integers(params)
        entries = resolve_layout(layout, params)
        matrices = matrix_shapes(params, entries)
        factors, bases = (square_sides(entries, matrices, max_precond_dim) for _ in range(2))
        nu = zeros_of(lambda tree: jax.tree.map(absolute_square, tree), matrices)
        return ScaleBySoapState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), nu, factors, bases)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, k = resolve_layout(layout, updates), state.count  # k steps so far, as the first call makes none
        first, steps = k == 0, jnp.maximum(k, 1)
        size = jnp.sqrt(total_weight(b2, steps)) / total_weight(b1, steps)
        due = jnp.where(first, 0, jnp.where(is_multiple(k, precondition_frequency), 1, 2))

        def one(g, mu, nu, factors, bases):
            m = average(g, mu, b1)
            v = average(absolute_square(on_sides(g, bases)), nu, b2)
            root = jnp.sqrt(jnp.where(first, 1.0, v))  # in the first step v is 0, where a root has no derivative
            step = size * on_sides(on_sides(m, bases) / (root + eps), _inverse(bases))
            m, v, step = (jnp.where(first, *pair) for pair in ((mu, m), (nu, v), (0.0 * step, step)))
            factors = sides(lambda old, new: average(new, old, beta), factors, grams(g))
            v, bases = jax.lax.switch(due, (_begin, _turn, _keep), v, factors, bases)
            return step, m, v, factors, bases

        g, mu = (jax.tree.map(widen, as_matrices(tree, entries)) for tree in (updates, state.mu))
        pairs = (load_sides(stored, entries) for stored in (state.factors, state.bases))
        step, mu, nu, *pairs = unzip(map_matrices(one, entries, g, mu, state.nu, *pairs), entries, 5)
        step, mu = (as_leaves(tree, entries, updates) for tree in (step, mu))
        pairs = (store_sides(tree, entries) for tree in pairs)
        return cast_like(step, updates), ScaleBySoapState(increment(k), cast_like(mu, state.mu), nu, *pairs)

    return keep_shardings(init, update)


def _inverse(bases):
    """The transposed bases, which rotate back."""
    return sides(lambda q: q.conj().mT, bases)


def _keep(v, factors, bases):
    del factors
    return v, bases


def _begin(v, factors, bases):
    """Eigenvectors, by descending eigenvalues."""
    del bases
    return v, sides(lambda factor: eigh(factor)[1][:, ::-1], factors)


def _turn(v, factors, bases):
    """One power iteration from the current basis, after sorting it by its eigenvalue estimates."""
    new = []
    for axis, (factor, q) in enumerate(zip(factors, bases, strict=True)):
        if q is not None:
            image = multiply(factor, q)
            order = jnp.argsort(-jnp.sum(q.conj() * image, axis=0).real)
            v = jnp.take(v, order, axis=axis)
            q = orthonormal(image[:, order])
        new.append(q)
    return v, Sides(*new)


def soap(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    shampoo_beta: ArrayLike | None = None,
    precondition_frequency: int | jax.Array = 10,
    max_precond_dim: int | jax.Array = 10000,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam in the eigenbasis of Shampoo's preconditioner.

    Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam" (2024, arXiv 2409.11321). Descends from
    :func:`shampoo`. For a matrix g (m, n)::

        L <- b L + (1 - b) g g'      Q_L, Q_R: eigenvectors of L, R, updated every few steps by
        R <- b R + (1 - b) g' g      one power iteration and a QR decomposition
        p <- p - lr Q_L adam(Q_L' g Q_R) Q_R'       with m averaged before the rotation, v after it
        p <- p - lr weight_decay p

    As in the official code, the first call only initializes the basis and makes no step; Adam's bias corrections are
    combined into one factor of the step, after adding eps; decay comes after the step; v is sorted along with the
    basis. Vectors, and sides longer than ``max_precond_dim``, are not rotated, so that 0 gives Adam.

    Args:
      learning_rate: a number or a schedule; 3e-3, for language models up to 8e-3.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean square of the rotated gradient, in [0, 1).
      eps: added to the root.
      shampoo_beta: decay b of L and R, in [0, 1); None is ``b2``.
      precondition_frequency: steps between updates of the basis; 1 to 100, more for small batches.
      max_precond_dim: longest side with a basis; if it excludes the longer side, SOAP is one-sided and has less state.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    >>> tx = soap(0.1, weight_decay=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> state = tx.init(params)
    >>> for grad in (jnp.array([[3.0, 0.0], [0.0, 1.0]]),) * 2:
    ...     updates, state = tx.update({"w": grad}, state, params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0.1]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim, "mu_dtype": mu_dtype}
    return chain(
        scale_by_soap(b1, b2, eps, shampoo_beta=shampoo_beta, layout=layout, **how),
        scale_by_learning_rate(learning_rate),
        decay_afterwards(learning_rate, weight_decay, mask, skip=1),
    )
