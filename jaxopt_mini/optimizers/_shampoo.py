"""Shampoo: a Kronecker-factored preconditioner, the inverse fourth root of a Gram matrix on each side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, Updates
from jaxopt_mini.check import (
    check_at_least_one,
    check_decay,
    check_fraction,
    check_name,
    check_nonnegative,
    check_static,
)
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import eigh, multiply
from jaxopt_mini.matrices import (
    Sides,
    as_leaves,
    grams,
    map_blocks,
    map_with_sides,
    matrix_shapes,
    on_sides,
    resolve_layout,
    sides,
    store_sides,
    wide_matrices,
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
    total_weight,
    wide_dtype,
    zeros_like,
    zeros_of,
)

TINY = 1e-30  # keeps a factor of zeros from dividing by zero


class ScaleByShampooState(NamedTuple):
    """State of :func:`scale_by_shampoo`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # like the parameters, float32: Adam's, for grafting
    factors: tuple[Any, Any]  # Gram matrices of inputs and outputs: (*stacked, side, side), or () for none
    roots: tuple[Any, Any]  # their inverse roots as of the last refresh; identities before the first


def _rms(m, square, decay, count, eps):
    del decay, count
    return m / (jnp.sqrt(square) + eps)


GRAFTS: dict[str, Callable[..., jax.Array]] = {
    "adam": lambda m, square, decay, count, eps: _rms(m, square / _weight(decay, count), decay, count, eps),
    "rmsprop": _rms,
    "adagrad": _rms,
    "sgd": lambda m, *_: m,
}
"""Methods for the size of the step: functions of the mean gradient, the accumulated square, its decay, t and eps."""


def _accumulate(new, old, decay):
    """An average; with a decay of 1, the sum."""
    return jax.tree.map(lambda n, o: jnp.where(decay == 1, 1.0, 1 - decay) * n + decay * o, new, old)


def _weight(decay, count):
    """The sum of the weights of an average that started at zero; 1 for a sum."""
    is_sum = decay == 1
    return jnp.where(is_sum, 1.0, total_weight(jnp.where(is_sum, 0.0, decay), count))


def scale_by_shampoo(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    *,
    shampoo_beta: ArrayLike | None = None,
    ridge: ArrayLike = 1e-6,
    root_eps: ArrayLike = 0.0,
    pseudo_inverse: bool = False,
    exponent: float | Sequence[float] | None = None,
    graft: bool | str = True,
    kl: bool = False,
    precondition_frequency: int | jax.Array = 10,
    start_preconditioning_step: int | jax.Array | None = None,
    max_precond_dim: int | jax.Array = 8192,
    block_size: int | jax.Array | None = None,
    merge_size: int | jax.Array | None = None,
    precondition_vectors: bool = False,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`shampoo`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleByShampooState`.
    """
    check_fraction(b1=b1, b2=b2)
    check_decay(shampoo_beta=shampoo_beta)
    check_nonnegative(eps=eps, ridge=ridge, root_eps=root_eps, max_precond_dim=max_precond_dim, merge_size=merge_size)
    check_static(max_precond_dim=max_precond_dim, block_size=block_size, merge_size=merge_size)
    check_at_least_one(precondition_frequency=precondition_frequency, block_size=block_size)
    check_at_least_one(start_preconditioning_step=start_preconditioning_step)
    graft = "adam" if graft is True else graft
    check_name(graft or "adam", GRAFTS, "unknown graft")
    if isinstance(ridge, Real) and isinstance(root_eps, Real) and not (ridge or root_eps):
        raise ValueError("ridge=0 and root_eps=0 give no root of a singular factor: set one of them above 0")
    max_precond_dim, merge_size = int(max_precond_dim), int(merge_size or 0)
    block_size = None if block_size is None else int(block_size)
    beta = b2 if shampoo_beta is None else shampoo_beta
    nu_decay = 1.0 if graft == "adagrad" else b2
    first = precondition_frequency if start_preconditioning_step is None else start_preconditioning_step

    inverse_root = partial(_inverse_root, ridge=ridge, root_eps=root_eps, pseudo_inverse=pseudo_inverse)

    def identities(entry, matrix):
        *stack, fan_in, fan_out = matrix.shape
        lengths = _lengths(fan_in, fan_out, bool(entry.inputs and entry.outputs), merge_size, precondition_vectors)
        blocks = []
        if block_size is not None:
            blocks = [math.prod(-(-length // block_size) for length in lengths if length)]
            lengths = [min(length, block_size) for length in lengths]

        def one(length, power):
            if not 0 < length <= max_precond_dim or power == 0:
                return None
            eye = jnp.eye(length, dtype=wide_dtype(matrix.dtype))
            return jnp.broadcast_to(eye, (*stack, *blocks, length, length))

        return Sides(*map(one, lengths, _powers(exponent, 0 not in lengths, 2)))

    def init(params):
        refuse_integers(params)
        entries = resolve_layout(layout, params)
        roots = store_sides(jax.tree.map(identities, entries, matrix_shapes(params, entries)), entries)
        nu = zeros_of(lambda tree: jax.tree.map(absolute_square, tree), params)
        factors = jax.tree.map(jnp.zeros_like, roots)
        return ScaleByShampooState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), nu, factors, roots)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        due = (count == first) | (is_multiple(count, precondition_frequency) & (count > first))
        mu = average(updates, state.mu, b1)
        nu = _accumulate(jax.tree.map(absolute_square, updates), state.nu, nu_decay)
        m = bias_correction(mu, b1, count)
        plain = jax.tree.map(lambda m, v: GRAFTS[graft or "adam"](m, v, nu_decay, count, eps), m, nu)

        def block(g, m, plain, factors, roots):
            new = _whitened_grams(g, roots) if kl else grams(g)
            factors = sides(lambda old, new: _accumulate(new, old, beta), factors, new)
            present = len(jax.tree.leaves(factors))
            powers = Sides(*_powers(exponent, factors.inputs is not None or len(g) > 1, present))

            def renew():
                weight = _weight(beta, count)
                return sides(lambda factor, power: inverse_root(factor / weight, power), factors, powers)

            roots = jax.lax.cond(due, renew, lambda: roots)
            step = on_sides(m, roots)
            if graft:
                step = jnp.where(count < first, plain, step * (norm(plain) / (norm(step) + TINY)))
            return step, factors, roots

        def one(g, m, plain, factors, roots):
            if not jax.tree.leaves(factors):
                return plain, factors, roots
            shape = (1, -1) if _is_vector(*g.shape, merge_size) else g.shape
            run = block if block_size is None else map_blocks(block, block_size)
            step, factors, roots = run(g.reshape(shape), m.reshape(shape), plain.reshape(shape), factors, roots)
            return step.reshape(g.shape), factors, roots

        trees = wide_matrices(entries, updates, m, plain)
        step, factors, roots = map_with_sides(one, entries, trees, (state.factors, state.roots))
        step = cast_like(as_leaves(step, entries, updates), updates)
        return step, ScaleByShampooState(count, cast_like(mu, state.mu), nu, factors, roots)

    return keep_shardings(init, update)


def _inverse_root(factor, power, *, ridge, root_eps, pseudo_inverse):
    """The factor to the power -``power``, with a lower bound of the eigenvalues."""
    values, vectors = eigh(factor)
    values = values - jnp.minimum(values[0], 0.0) + root_eps
    # A lower bound hides rounding errors of zero eigenvalues, an added eps would not.
    bound = ridge * values[-1] + TINY
    roots = jnp.maximum(values, bound) ** -power
    roots = jnp.where(values > bound, roots, 0.0) if pseudo_inverse else roots
    return multiply(vectors * roots[None, :], vectors.conj().mT)


def _is_vector(fan_in, fan_out, merge_size):
    """Whether a matrix is preconditioned as a vector."""
    return fan_in == 1 or fan_in * fan_out <= merge_size


def _lengths(fan_in, fan_out, is_matrix, merge_size, precondition_vectors):
    """The sides of the input and the output factor; 0 for none."""
    if _is_vector(fan_in, fan_out, merge_size):
        return (0, fan_in * fan_out if is_matrix or precondition_vectors else 0)
    return (fan_in, fan_out) if is_matrix else (0, 0)


def _powers(exponent, is_matrix, present):
    """The powers of the inverse roots of the input and the output factor."""
    if exponent is None or not is_matrix:
        return (0.5 / present, 0.5 / present)
    return (exponent, exponent) if isinstance(exponent, Real) else tuple(exponent)


def _whitened_grams(g, roots):
    """Gram matrices of the gradient times the root of the other side."""
    return Sides(
        grams(on_sides(g, roots._replace(inputs=None))).inputs, grams(on_sides(g, roots._replace(outputs=None))).outputs
    )


def shampoo(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    shampoo_beta: ArrayLike | None = None,
    ridge: ArrayLike = 1e-6,
    root_eps: ArrayLike = 0.0,
    pseudo_inverse: bool = False,
    exponent: float | Sequence[float] | None = None,
    graft: bool | str = True,
    kl: bool = False,
    precondition_frequency: int | jax.Array = 10,
    start_preconditioning_step: int | jax.Array | None = None,
    max_precond_dim: int | jax.Array = 8192,
    block_size: int | jax.Array | None = None,
    merge_size: int | jax.Array | None = None,
    precondition_vectors: bool = False,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Preconditions both sides of a matrix; Adam's step size.

    Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization" (2018, arXiv 1802.09568); averages,
    grafting and periodic refresh: Anil et al. 2020, arXiv 2002.09018; Shi et al. 2023, arXiv 2309.06497.
    Descends from :func:`adagrad`. For a matrix g (m, n), with Adam's step a and mean m_hat::

        L <- b L + (1 - b) g g'             R <- b R + (1 - b) g' g
        P, Q = (L / (1 - b^t))^(-1/4), (R / (1 - b^t))^(-1/4)         every f steps, first in step f
        s = P m_hat Q                       p <- p - lr (s |a| / |s| + weight_decay p)

    Before step f = ``precondition_frequency`` the step is a. If one side is longer than ``max_precond_dim``, only the
    other is preconditioned, with power -1/2. Vectors use Adam's step. Up to |a|, rotating the inputs and outputs of the
    gradient rotates the step. KL-Shampoo (Lin et al. 2025, arXiv 2509.03378) accumulates (g Q)(g Q)' and (P g)'(P g)
    instead, with power -1/2: ``kl=True, exponent=0.5``.

    Departures: by default eigenvalues have a lower bound relative to the largest, so that the step depends neither on
    rounding nor on the scale of the gradient; the official code adds ``root_eps=1e-12`` (with ``ridge=0``), doesn't
    graft, sums L and R (``shampoo_beta=1.0``), preconditions vectors, and flattens matrices of at most 1024 entries
    to vectors (``merge_size=1024``).

    Args:
      learning_rate: a number or a schedule; Adam's.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added to Adam's root.
      shampoo_beta: decay b of L and R, in [0, 1]; 1 sums them; None is ``b2``.
      ridge: lower bound of the eigenvalues of L and R in the roots, relative to the largest.
      root_eps: added to the eigenvalues.
      pseudo_inverse: set the roots of eigenvalues below the bound to 0, instead of raising them to it.
      exponent: power of both roots of a matrix, or a pair (inputs, outputs), in which 0 leaves a side out; None is 1/2
        divided by the number of factors.
      graft: method whose norm the step takes: True for "adam"; "rmsprop", "adagrad" (with a sum in place of the mean
        square), "sgd" (the mean gradient), or False for s itself, whose best learning rate depends on the shape.
      kl: accumulate the gradient preconditioned on the other side.
      precondition_frequency: steps between updates of the roots.
      start_preconditioning_step: step of the first update of the roots, from 1; None is ``precondition_frequency``.
      max_precond_dim: longest side with a factor.
      block_size: longest side of the blocks that a matrix is divided into, each with its own factors and norm; None
        doesn't divide it.
      merge_size: matrices of at most this many entries are preconditioned as vectors; None is 0.
      precondition_vectors: precondition vectors by the power -1/2 of their full factor.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, ``graft`` is unknown, or ``ridge`` and ``root_eps`` are both 0.

    >>> tx = shampoo(0.1, precondition_frequency=1)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[8.0, 0.0], [0.0, 0.5]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0.1]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    roots = {"ridge": ridge, "root_eps": root_eps, "pseudo_inverse": pseudo_inverse, "exponent": exponent, "kl": kl}
    when = {
        "precondition_frequency": precondition_frequency,
        "start_preconditioning_step": start_preconditioning_step,
    }
    shapes = {"block_size": block_size, "merge_size": merge_size, "precondition_vectors": precondition_vectors}
    how = {"max_precond_dim": max_precond_dim, "graft": graft, "mu_dtype": mu_dtype, "layout": layout}
    return chain(
        scale_by_shampoo(b1, b2, eps, shampoo_beta=shampoo_beta, **roots, **when, **shapes, **how),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
