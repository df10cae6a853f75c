"""PSGD Kron: whitens the gradient with fitted Kronecker factors, without matrix inverses or roots."""

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
    schedule_value,
)
from jaxopt_mini.check import check_fraction, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply, solve_transposed
from jaxopt_mini.matrices import (
    Sides,
    as_leaves,
    as_matrices,
    load_sides,
    map_matrices,
    matrix_shapes,
    resolve_layout,
    sides,
    store_sides,
    unzip,
)
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    average,
    bias_correction,
    cast_like,
    increment,
    norm,
    refuse_integers,
    wide_dtype,
    zeros_like,
)

TINY = 1e-30  # keeps a norm of zeros from dividing by zero


def seldom(count: ArrayLike) -> jax.Array:
    """Probability of a fit: 1 in the first 500 steps, then decaying by a factor exp(-1/1000) per step to 0.03.

    >>> print(seldom(jnp.int32(0)), seldom(jnp.int32(1500)).round(2), seldom(jnp.int32(9000)).round(2))
    1.0 0.37 0.03
    """
    return jnp.clip(jnp.exp(-0.001 * (jnp.asarray(count, jnp.float32) - 500.0)), 0.03, 1.0)


class ScaleByKronState(NamedTuple):
    """State of :func:`scale_by_kron`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    # Q of the inputs and of the outputs, float32: upper triangular (*stacked, side, side), diagonal (*stacked, side),
    # or () for none
    factors: tuple[Any, Any]


def scale_by_kron(
    b1: ArrayLike = 0.9,
    precond_lr: ArrayLike = 0.1,
    probability: ScalarOrSchedule = seldom,
    *,
    max_rms: ArrayLike = 1.1,
    damping: ArrayLike = 1e-9,
    max_size_triangular: int | jax.Array = 8192,
    seed: int | jax.Array = 0,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`kron`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleByKronState`.
    """
    check_fraction(b1=b1)
    check_nonnegative(precond_lr=precond_lr, probability=probability, max_rms=max_rms, damping=damping)
    check_nonnegative(max_size_triangular=max_size_triangular)
    check_static(max_size_triangular=max_size_triangular)

    def start(entry, matrix):
        *stack, fan_in, fan_out = matrix.shape
        kind = wide_dtype(matrix.dtype)

        def side(length):
            if not length:
                return None
            triangular = entry.inputs and length <= max_size_triangular
            factor = jnp.eye(length, dtype=kind) if triangular else jnp.ones(length, kind)
            return jnp.broadcast_to(factor, (*stack, *factor.shape))

        return Sides(side(fan_in) if entry.inputs else None, side(fan_out))

    def init(params):
        refuse_integers(params)
        require_real(params, "kron")
        entries = resolve_layout(layout, params)
        factors = store_sides(jax.tree.map(start, entries, matrix_shapes(params, entries)), entries)
        return ScaleByKronState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), factors)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        mu = average(updates, state.mu, b1)
        key, other = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.count))
        due = jax.random.uniform(key) < schedule_value(probability, state.count)

        def one(m, factors):
            def fitted():
                probe = jax.random.normal(other, m.shape, m.dtype)  # the same for all matrices of a shape
                return fit(factors, m + damping * probe, probe, precond_lr)

            factors = jax.lax.cond(due, fitted, lambda: factors)
            step = both(_transposed, factors, both(_times, factors, m))
            rms = jnp.sqrt(jnp.mean(jnp.square(step)))
            return step * jnp.minimum(1.0, max_rms / (rms + TINY)), factors

        m = as_matrices(bias_correction(mu, b1, count), entries)
        step, factors = unzip(map_matrices(one, entries, m, load_sides(state.factors, entries)), entries)
        step = cast_like(as_leaves(step, entries, updates), updates)
        return step, ScaleByKronState(count, cast_like(mu, state.mu), store_sides(factors, entries))

    return keep_shardings(init, update)


def fit(factors: Sides, matrix: jax.Array, probe: jax.Array, rate: ArrayLike) -> Sides:
    """One step of each factor towards whitening ``matrix``, then balances their largest entries."""
    a, b = both(_times, factors, matrix), both(_solved, factors, probe)
    factors = sides(lambda q, a, b: _fit(q, a, b, rate), factors, Sides(a, a.mT), Sides(b, b.mT))
    sizes = [jnp.max(jnp.abs(q)) for q in jax.tree.leaves(factors)]
    mean = jnp.exp(sum(jnp.log(size) for size in sizes) / max(1, len(sizes)))
    return sides(lambda q: q * (mean / jnp.max(jnp.abs(q))), factors)


def _fit(q, a, b, rate):
    scale = norm((a, b), ord=jnp.inf) + TINY  # cancels; without it, products overflow
    a, b = a / scale, b / scale
    if q.ndim == 1:
        gain, cost = (jnp.sum(jnp.square(x), axis=1) for x in (a, b))
        return q - rate * (gain - cost) / (jnp.max(gain + cost) + TINY) * q
    gain, cost = multiply(a, a.mT), multiply(b, b.mT)
    return q - rate / (_norm_below(gain + cost) + TINY) * multiply(jnp.triu(gain - cost), q)


def _norm_below(symmetric):
    """A lower bound of the largest eigenvalue: one step of power iteration from the longest column."""
    column = symmetric[jnp.argmax(jnp.sum(jnp.square(symmetric), axis=0))]
    return jnp.linalg.norm(symmetric @ (column / (jnp.linalg.norm(column) + TINY)))


def both(act: Callable[[jax.Array, jax.Array], jax.Array], factors: Sides, x: jax.Array) -> jax.Array:
    """``act(Q, x)`` on the rows for the input side, on the columns for the output side."""
    x = x if factors.inputs is None else act(factors.inputs, x)
    return x if factors.outputs is None else act(factors.outputs, x.mT).mT


def _times(q, x):
    return multiply(q, x) if q.ndim == 2 else q[:, None] * x


def _transposed(q, x):
    return multiply(q.mT, x) if q.ndim == 2 else q[:, None] * x


def _solved(q, x):
    """Q'^-1 x."""
    return solve_transposed(q, x) if q.ndim == 2 else x / q[:, None]


def kron(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    precond_lr: ArrayLike = 0.1,
    probability: ScalarOrSchedule = seldom,
    max_rms: ArrayLike = 1.1,
    damping: ArrayLike = 1e-9,
    max_size_triangular: int | jax.Array = 8192,
    weight_decay: ScalarOrSchedule = 0.0,
    mu_dtype: DTypeLike | None = None,
    seed: int | jax.Array = 0,
    layout: Any | None = None,
) -> GradientTransformation:
    """PSGD: learns Kronecker factors that whiten the gradient.

    Li, "Preconditioned Stochastic Gradient Descent" (2015, arXiv 1512.04202); "Stochastic Hessian Fittings with Lie
    Groups" (2024, arXiv 2402.11858). The preconditioner P = Q'Q minimizes E[m'P m + v'P^-1 v] over normal v, so that
    P m is white. For a matrix m, the averaged gradient, with one factor Q per side::

        A = Q_L (m + damping v) Q_R'             B = Q_L'^-1 v Q_R^-1
        Q_L <- Q_L - precond_lr / |AA' + BB'| triu(AA' - BB') Q_L          Q_R the same with A', B'
        u = Q_L'Q_L m Q_R'Q_R                    p <- p - lr (u min(1, max_rms / rms(u)) + weight_decay p)

    It only solves triangular systems. Vectors, and sides longer than ``max_size_triangular``, have diagonal factors.
    Whether a step fits, and v, depend only on ``seed`` and the step count; v is the same for all matrices of one shape.
    The norm is approximated by a lower bound from one step of power iteration.

    Departures: the largest entries of both factors are balanced after each fit, in the official code only
    occasionally; this doesn't change P.

    Args:
      learning_rate: a number or a schedule; a third of AdamW's, 3e-4 to 1e-3.
      b1: decay of the mean of the gradient, in [0, 1).
      precond_lr: largest relative change of a factor per fit, 0.1 to 0.2.
      probability: probability of a fit, a number or a schedule; by default 1 for 500 steps, then decaying to 0.03.
      max_rms: largest root mean square of a matrix in the update.
      damping: keeps factors finite where the gradient is zero.
      max_size_triangular: longest side with a triangular factor.
      weight_decay: a number or a schedule, times the learning rate; 3 to 10 times AdamW's.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      seed: seed of v and of the choice of steps that fit.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 + 4 (m^2 + n^2) / mn bytes of state per float32 parameter.
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"max_rms": max_rms, "damping": damping, "max_size_triangular": max_size_triangular, "mu_dtype": mu_dtype}
    return chain(
        scale_by_kron(b1, precond_lr, probability, seed=seed, layout=layout, **how),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(learning_rate),
    )
