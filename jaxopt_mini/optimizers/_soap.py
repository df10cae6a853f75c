"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, Updates
from jaxopt_mini.check import check_at_least_one, check_fraction, check_name, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import eigh, multiply, orthonormal
from jaxopt_mini.matrices import (
    Sides,
    as_leaves,
    grams,
    identity_sides,
    map_with_sides,
    matrix_shapes,
    on_sides,
    resolve_layout,
    sides,
    square_sides,
    wide_matrices,
)
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.late_decay import decay_afterwards
from jaxopt_mini.tree import (
    absolute_square,
    average,
    bias_correction,
    cast_like,
    increment,
    is_multiple,
    refuse_integers,
    total_weight,
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
    skip_first: bool = True,
    refresh: str = "sorted_qr",
    debias: str | None = "step",
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`soap`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleBySoapState`.
    """
    check_fraction(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check_nonnegative(eps=eps)
    check_name(refresh, REFRESHES, "unknown refresh")
    check_name(debias or "step", DEBIASES, "unknown debias")
    longest = checked_dim(max_precond_dim, precondition_frequency)
    beta = b2 if shampoo_beta is None else shampoo_beta

    def init(params):
        return ScaleBySoapState(*initial_state(params, layout, longest, mu_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, k = resolve_layout(layout, updates), state.count
        t = k if skip_first else k + 1  # number of this step; that of the first is 0 if it is skipped
        first, steps, due = k == 0, jnp.maximum(t, 1), is_multiple(t, precondition_frequency)

        def one(g, mu, nu, factors, bases):
            new = sides(lambda old, gram: average(gram, old, beta), factors, grams(g))
            if refresh == "eigh":
                bases = jax.lax.cond(due, lambda: sides(lambda f: eigh(f)[1], new), lambda: bases)
            elif not skip_first:
                bases = jax.lax.cond(first, lambda: eigenvectors(new), lambda: bases)
            m, v = average(g, mu, b1), average(absolute_square(on_sides(g, bases)), nu, b2)
            step = on_sides(adam_step(on_sides(m, bases), v, b1, b2, eps, steps, debias), inverse(bases))
            if skip_first:
                m, v, step = (jnp.where(first, *pair) for pair in ((mu, m), (nu, v), (0.0 * step, step)))
            if refresh != "eigh":
                case = jnp.where(first & skip_first, 0, jnp.where(due, 1, 2))
                v, bases = refreshed(case, v, new, bases, is_sorted=refresh == "sorted_qr")
            return step, m, v, new, bases

        trees = (*wide_matrices(entries, updates, state.mu), state.nu)
        step, mu, nu, *pairs = map_with_sides(one, entries, trees, (state.factors, state.bases), 3)
        step, mu = (as_leaves(tree, entries, updates) for tree in (step, mu))
        return cast_like(step, updates), ScaleBySoapState(increment(k), cast_like(mu, state.mu), nu, *pairs)

    return keep_shardings(init, update)


REFRESHES = ("sorted_qr", "qr", "eigh")
DEBIASES = ("step", "moments")


def checked_dim(max_precond_dim: int | jax.Array, precondition_frequency: int | jax.Array) -> int:
    """Checks the arguments of the bases; returns the longest side with one.

    Raises:
      ValueError: a number is out of range, or the longest side is traced.
    """
    check_nonnegative(max_precond_dim=max_precond_dim)
    check_static(max_precond_dim=max_precond_dim)
    check_at_least_one(precondition_frequency=precondition_frequency)
    return int(max_precond_dim)


def initial_state(params: Params, layout: Any, longest: int, mu_dtype: DTypeLike | None) -> tuple[Any, ...]:
    """The fields of a :class:`ScaleBySoapState` before the first step, with bases for sides up to ``longest``."""
    refuse_integers(params)
    entries = resolve_layout(layout, params)
    matrices = matrix_shapes(params, entries)
    factors = square_sides(entries, matrices, longest)
    nu = zeros_of(lambda tree: jax.tree.map(absolute_square, tree), matrices)
    return jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), nu, factors, identity_sides(factors)


def adam_step(
    m: jax.Array, v: jax.Array, b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, count: jax.Array, debias: str | None
) -> jax.Array:
    """Adam's direction; where v is 0, its root has no derivative."""
    if debias == "moments":
        m, v = bias_correction(m, b1, count), bias_correction(v, b2, count)
    size = jnp.sqrt(total_weight(b2, count)) / total_weight(b1, count) if debias == "step" else 1.0
    root = jnp.where(v == 0, 0.0, jnp.sqrt(jnp.where(v == 0, 1.0, v)))
    return size * m / (root + eps)


def inverse(bases: Sides) -> Sides:
    """The transposed bases, which rotate back."""
    return sides(lambda q: q.conj().mT, bases)


def eigenvectors(factors: Sides) -> Sides:
    """Eigenvectors of both factors, by descending eigenvalues."""
    return sides(lambda factor: eigh(factor)[1][:, ::-1], factors)


def refreshed(case: jax.Array, v: Any, factors: Sides, bases: Sides, *, is_sorted: bool = True) -> tuple[Any, Sides]:
    """Case 0 computes the bases from the factors, case 1 is :func:`power_iteration`, case 2 keeps them."""
    begin = lambda v, factors, bases: (v, eigenvectors(factors))
    keep = lambda v, factors, bases: (v, bases)
    return jax.lax.switch(case, (begin, partial(power_iteration, is_sorted=is_sorted), keep), v, factors, bases)


def power_iteration(v: Any, factors: Sides, bases: Sides, *, is_sorted: bool = True) -> tuple[Any, Sides]:
    """One power iteration from the current bases, after sorting them, with ``v``, by their eigenvalue estimates."""
    new = []
    for axis, (factor, q) in enumerate(zip(factors, bases, strict=True)):
        if q is not None:
            image = multiply(factor, q)
            if is_sorted:
                order = jnp.argsort(-jnp.sum(q.conj() * image, axis=0).real)
                v, image = jnp.take(v, order, axis=axis), image[:, order]
            q = orthonormal(image)
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
    skip_first: bool = True,
    refresh: str = "sorted_qr",
    debias: str | None = "step",
    late_decay: bool = True,
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

    The form of Meta's Distributed Shampoo is ``soap(lr, skip_first=False, refresh="eigh", debias="moments",
    late_decay=False)``; SOAP-H (modded-nanogpt 2026) is ``hyperball(soap(1.0, skip_first=False, refresh="qr",
    debias=None, weight_decay=0.0))`` with ``b2=0.9, precondition_frequency=1``.

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
      skip_first: the first call only initializes the basis; False makes a step in it.
      refresh: update of the basis: "sorted_qr" as above; "qr" doesn't sort; "eigh" computes the eigenvectors before the
        step, from factors that include its gradient, and starts from the identity.
      debias: bias corrections of the "step", after adding eps, or of the "moments", as in Adam; None for neither.
      late_decay: decay the parameters after the step; False decays them before it, as in AdamW.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or a name is unknown.

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
    how |= {"skip_first": skip_first, "refresh": refresh, "debias": debias, "layout": layout}
    direction = scale_by_soap(b1, b2, eps, shampoo_beta=shampoo_beta, **how)
    rate = scale_by_learning_rate(learning_rate)
    if not late_decay:
        return chain(direction, add_decayed_weights(weight_decay, mask), rate)
    return chain(direction, rate, decay_afterwards(learning_rate, weight_decay, mask, skip=int(skip_first)))
