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
from jaxopt_mini.check import check_fraction, check_name, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply, solve_transposed
from jaxopt_mini.matrices import (
    Sides,
    as_leaves,
    as_matrices,
    map_with_sides,
    matrix_shapes,
    resolve_layout,
    sides,
    store_sides,
    wide_matrices,
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
EPSILON = 2.0**-23  # of float32, from the official code


def seldom(count: ArrayLike) -> jax.Array:
    """Frequency of fits: 1 in the first 500 steps, then decaying by a factor exp(-1/1000) per step to 0.03.

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
    since_fit: jax.Array  # int32[]: steps since the last fit


DIAGONALS = ("long", "longer", "longest", "all")


def scale_by_kron(
    b1: ArrayLike = 0.9,
    precond_lr: ArrayLike = 0.1,
    probability: ScalarOrSchedule = seldom,
    *,
    max_rms: ArrayLike = 1.1,
    damping: ArrayLike = 1e-9,
    relative_damping: ArrayLike = EPSILON**0.5,
    damped_step: bool = False,
    fit_gradient: bool = False,
    init_scale: ArrayLike | None = 1.0,
    max_size_triangular: int | jax.Array = 8192,
    diagonal: str = "long",
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
    check_nonnegative(relative_damping=relative_damping, init_scale=init_scale)
    check_nonnegative(max_size_triangular=max_size_triangular)
    check_name(diagonal, DIAGONALS, "unknown diagonal")
    check_static(max_size_triangular=max_size_triangular)

    def triangular(lengths):
        """Which sides have a triangular factor: by default those that are not too long."""
        fan_in, fan_out = lengths
        chosen = {
            "long": (True, True),
            "longer": (fan_in <= fan_out, fan_out <= fan_in),
            "longest": (fan_in < fan_out, fan_out <= fan_in),
            "all": (False, False),
        }[diagonal]
        return [take and length <= max_size_triangular for take, length in zip(chosen, lengths, strict=True)]

    def start(entry, matrix):
        *stack, fan_in, fan_out = matrix.shape
        kind, is_matrix = wide_dtype(matrix.dtype), bool(entry.inputs)
        size = jnp.ones((), kind) if init_scale is None else jnp.asarray(init_scale, kind)
        size = size**0.5 if is_matrix else size

        def side(length, triangular):
            if not length:
                return None
            factor = jnp.eye(length, dtype=kind) if triangular and is_matrix else jnp.ones(length, kind)
            return jnp.broadcast_to(size * factor, (*stack, *factor.shape))

        inputs, outputs = triangular((fan_in, fan_out))
        return Sides(side(fan_in, inputs) if is_matrix else None, side(fan_out, outputs))

    def init(params):
        refuse_integers(params)
        require_real(params, "kron")
        entries = resolve_layout(layout, params)
        factors = store_sides(jax.tree.map(start, entries, matrix_shapes(params, entries)), entries)
        zero = jnp.zeros((), jnp.int32)
        return ScaleByKronState(zero, zeros_like(params, mu_dtype), factors, jnp.copy(zero))

    def update(updates, state, params=None, *, probe=None, **extra_args):
        del params, extra_args
        entries, count = resolve_layout(layout, updates), increment(state.count)
        mu = average(updates, state.mu, b1)
        since_fit = increment(state.since_fit)
        due = since_fit.astype(jnp.float32) * schedule_value(probability, state.count) >= 1

        def one(m, target, given, factors):
            # The drawn probe is the same for all matrices of a shape.
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            v = jax.random.normal(key, m.shape, m.dtype) if given is None else given
            damped = target + (damping + relative_damping * jnp.mean(jnp.abs(target))) * v
            if init_scale is None:
                factors = sized_by(target, factors, state.count == 0, 1 / 16)
            factors = jax.lax.cond(due, lambda: fit(factors, damped, v, precond_lr), lambda: factors)
            step = both(transposed, factors, both(times, factors, damped if damped_step else m))
            rms = jnp.sqrt(jnp.mean(jnp.square(step)))
            return step * jnp.minimum(1.0, max_rms / (rms + TINY)), factors

        m = as_matrices(bias_correction(mu, b1, count), entries)
        target = wide_matrices(entries, updates)[0] if fit_gradient else m
        given = jax.tree.map(lambda _: None, m) if probe is None else as_matrices(probe, entries)
        step, factors = map_with_sides(one, entries, (m, target, given), (state.factors,))
        step = cast_like(as_leaves(step, entries, updates), updates)
        since_fit = jnp.where(due, 0, since_fit)
        return step, ScaleByKronState(count, cast_like(mu, state.mu), factors, since_fit)

    return keep_shardings(init, update)


def sized_by(gradient: jax.Array, factors: Sides, first: jax.Array, power: float, damping: ArrayLike = 0.0) -> Sides:
    """The initial factors, times (mean(g^4) + damping^4)^-power shared among them; only in the first step."""
    power = power / max(1, len(jax.tree.leaves(factors)))
    fourth = jnp.mean(jnp.square(jnp.square(gradient))) + damping**4
    size = jnp.where(first & (fourth > 0), jnp.where(fourth > 0, fourth, 1.0) ** -power, 1.0)
    return jax.tree.map(lambda q: q * size, factors)


def fit(factors: Sides, matrix: jax.Array, probe: jax.Array, rate: ArrayLike) -> Sides:
    """One step of each factor towards whitening ``matrix``, then balances their largest entries."""
    a, b = both(times, factors, matrix), both(solved, factors, probe)
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
    return q - rate / (largest_eigenvalue(gain + cost) + TINY) * multiply(jnp.triu(gain - cost), q)


def largest_eigenvalue(symmetric: jax.Array) -> jax.Array:
    """A lower bound of the largest eigenvalue: two products with the longest column."""
    scale = jnp.max(jnp.abs(symmetric)) + TINY
    symmetric = symmetric / scale
    x = symmetric @ symmetric[jnp.argmax(jnp.sum(jnp.square(symmetric), axis=0))]
    return scale * jnp.linalg.norm(symmetric @ (x / (jnp.linalg.norm(x) + TINY)))


def both(act: Callable[[jax.Array, jax.Array], jax.Array], factors: Sides, x: jax.Array) -> jax.Array:
    """``act(Q, x)`` on the rows for the input side, on the columns for the output side."""
    x = x if factors.inputs is None else act(factors.inputs, x)
    return x if factors.outputs is None else act(factors.outputs, x.mT).mT


def times(q: jax.Array, x: jax.Array) -> jax.Array:
    """Q x for a triangular, dense or diagonal Q."""
    return multiply(q, x) if q.ndim == 2 else q[:, None] * x


def transposed(q: jax.Array, x: jax.Array) -> jax.Array:
    """Q' x."""
    return multiply(q.mT, x) if q.ndim == 2 else q[:, None] * x


def solved(q: jax.Array, x: jax.Array) -> jax.Array:
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
    relative_damping: ArrayLike = EPSILON**0.5,
    damped_step: bool = False,
    fit_gradient: bool = False,
    init_scale: ArrayLike | None = 1.0,
    max_size_triangular: int | jax.Array = 8192,
    diagonal: str = "long",
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    seed: int | jax.Array = 0,
    layout: Any | None = None,
) -> GradientTransformation:
    """PSGD: learns Kronecker factors that whiten the gradient.

    Li, "Preconditioned Stochastic Gradient Descent" (2015, arXiv 1512.04202); "Stochastic Hessian Fittings with Lie
    Groups" (2024, arXiv 2402.11858). The preconditioner P = Q'Q minimizes E[m'P m + v'P^-1 v] over normal v, so that
    P m is white. For a matrix m, the averaged gradient, with one factor Q per side::

        A = Q_L (m + d v) Q_R'                   B = Q_L'^-1 v Q_R^-1       d = relative_damping mean |m| + damping
        Q_L <- Q_L - precond_lr / |AA' + BB'| triu(AA' - BB') Q_L          Q_R the same with A', B'
        u = Q_L'Q_L m Q_R'Q_R                    p <- p - lr (u min(1, max_rms / rms(u)) + weight_decay p)

    It only solves triangular systems. Vectors, and sides longer than ``max_size_triangular``, have diagonal factors.
    v depends only on ``seed`` and the step count, and is the same for all matrices of one shape; a tree passed to
    ``update`` as ``probe`` replaces it. The norm is the official code's lower bound: two products with the longest
    column.

    By default the rule is that of the official JAX code, psgd_jax. The official torch code, kron_torch, also applies
    the damped gradient (``damped_step=True``) and decays only matrices (``weight_decay_mask``).

    Departures: ``damping`` keeps Q finite where the gradient stays zero; the largest entries of both factors are
    balanced after each fit, in the official code only occasionally, which doesn't change P.

    Args:
      learning_rate: a number or a schedule; a third of AdamW's, 3e-4 to 1e-3.
      b1: decay of the mean of the gradient, in [0, 1).
      precond_lr: largest relative change of a factor per fit, 0.1 to 0.2.
      probability: fits per step, a number or a schedule; a fit is due 1 / probability steps after the last one. By
        default 1 for 500 steps, then decaying to 0.03.
      max_rms: largest root mean square of a matrix in the update.
      damping: noise added to the gradient that Q is fitted to.
      relative_damping: noise relative to the mean absolute entry of that gradient.
      damped_step: precondition the gradient with this noise.
      fit_gradient: fit Q to the gradient instead of its mean; the step is always along the mean.
      init_scale: scale of the initial P^(1/2); None computes it from the first gradient.
      max_size_triangular: longest side with a triangular factor.
      diagonal: sides with a diagonal factor: those that are "long", also the "longer" one, of two equal ones
        the input side too ("longest"), or "all".
      weight_decay: a number or a schedule, times the learning rate; 3 to 10 times AdamW's.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      seed: seed of v.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 + 4 (m^2 + n^2) / mn bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or ``diagonal`` is unknown.
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    noise = {"damping": damping, "relative_damping": relative_damping, "damped_step": damped_step}
    sizes = {"max_size_triangular": max_size_triangular, "diagonal": diagonal, "init_scale": init_scale}
    how = {"max_rms": max_rms, "fit_gradient": fit_gradient, "mu_dtype": mu_dtype, **noise, **sizes}
    return chain(
        scale_by_kron(b1, precond_lr, probability, seed=seed, layout=layout, **how),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
