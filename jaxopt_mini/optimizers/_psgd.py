"""PSGD with a whitening Kronecker preconditioner as its author fits it since 2025: without triangular solves."""

from __future__ import annotations

import math
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
from jaxopt_mini.check import check_fraction, check_name, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply
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
from jaxopt_mini.optimizers._kron import EPSILON, TINY, both, largest_eigenvalue, sized_by, solved, times, transposed
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import cast_like, increment, refuse_integers, wide_dtype, widen, zeros_like

FITS = ("Q0.5EQ1.5", "EQ")


class ScaleByPsgdState(NamedTuple):
    """State of :func:`scale_by_psgd`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    factors: tuple[Any, Any]  # Q of inputs and outputs: (*stacked, side, side), diagonal (*stacked, side), () for none
    bounds: tuple[Any, Any]  # largest recent norm of each side's statistics: (*stacked, 1), or () for none


def scale_by_psgd(
    beta: ArrayLike = 0.0,
    precond_lr: ArrayLike = 0.1,
    *,
    fit: str = "Q0.5EQ1.5",
    fit_gradient: bool = True,
    bound_decay: ArrayLike = 0.9,
    damping: ArrayLike = 1e-9,
    max_rms: ArrayLike = 2.0,
    max_entry: ArrayLike = 10.0,
    init_scale: ArrayLike | None = None,
    max_size: int | jax.Array | None = None,
    max_skew: ArrayLike = 1,
    seed: int | jax.Array = 0,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`psgd`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleByPsgdState`.
    """
    check_fraction(beta=beta, bound_decay=bound_decay)
    check_nonnegative(precond_lr=precond_lr, damping=damping, max_rms=max_rms, max_entry=max_entry)
    check_nonnegative(init_scale=init_scale, max_size=max_size, max_skew=max_skew)
    check_static(max_size=max_size, max_skew=max_skew)
    check_name(fit, FITS, "unknown fit")
    largest = math.inf if max_size is None else int(max_size)

    def start(entry, matrix):
        *stack, fan_in, fan_out = matrix.shape
        kind, count = wide_dtype(matrix.dtype), 1 + bool(entry.inputs)
        size = jnp.ones((), kind) if init_scale is None else jnp.asarray(init_scale, kind) ** (1 / count)

        def side(length):
            if not length:
                return None
            dense = 1 < length <= largest and length**2 <= max_skew * fan_in * fan_out
            factor = jnp.eye(length, dtype=kind) if dense else jnp.ones(length, kind)
            return jnp.broadcast_to(size * factor, (*stack, *factor.shape))

        return Sides(side(fan_in) if entry.inputs else None, side(fan_out))

    def init(params):
        refuse_integers(params)
        require_real(params, "psgd")
        entries = resolve_layout(layout, params)
        factors = jax.tree.map(start, entries, matrix_shapes(params, entries))
        bound = lambda entry, q: sides(lambda q: jnp.zeros((*q.shape[: len(entry.stacked)], 1), q.dtype), q)
        bounds = jax.tree.map(bound, entries, factors)
        state = (store_sides(tree, entries) for tree in (factors, bounds))
        return ScaleByPsgdState(jnp.zeros((), jnp.int32), zeros_like(params), *state)

    def update(updates, state, params=None, *, probe=None, norms=None, **extra_args):
        del params, extra_args
        entries, k = resolve_layout(layout, updates), state.count.astype(jnp.float32)
        decay = jnp.minimum(k / (1 + k), beta)
        mu = jax.tree.map(lambda g, m: (1 - decay) * widen(g) + decay * widen(m), updates, state.mu)

        def one(g, m, given, norms, factors, bounds):
            if g.size == 0:
                return m, factors, bounds
            key = jax.random.fold_in(jax.random.key(seed), state.count)
            v = jax.random.normal(key, m.shape, m.dtype) if given is None else given
            target = g if fit_gradient else m
            damped = target + (damping + EPSILON * jnp.abs(target)) * v
            if init_scale is None:
                factors = sized_by(g, factors, state.count == 0, 1 / 8, damping)
            step = _halley if fit == "Q0.5EQ1.5" else _triangular
            factors, bounds = step(factors, bounds, damped, v, precond_lr, bound_decay, norms)
            u = both(transposed, factors, both(times, factors, m))
            rms = jnp.sqrt(jnp.mean(jnp.square(u)))
            return jnp.clip(u * jnp.minimum(1.0, max_rms / (rms + TINY)), -1 * max_entry, max_entry), factors, bounds

        g, m = wide_matrices(entries, updates, mu)
        probes = jax.tree.map(lambda _: None, m) if probe is None else as_matrices(probe, entries)
        norms = jax.tree.map(lambda _: None, m) if norms is None else jax.tree.map(lambda _, *n: Sides(*n), m, *norms)
        trees, stored = (g, m, probes, norms), (state.factors, state.bounds)
        step, factors, bounds = map_with_sides(one, entries, trees, stored)
        step = cast_like(as_leaves(step, entries, updates), updates)
        return step, ScaleByPsgdState(increment(state.count), cast_like(mu, state.mu), factors, bounds)

    return keep_shardings(init, update)


def _fitted(fitted, factors, bounds, gains, costs, norms):
    """Applies ``fitted`` to the factor of each side; returns factors and bounds."""
    norms = Sides(None, None) if norms is None else norms
    rows = zip(factors, bounds, gains, costs, norms, strict=True)
    ends = [(None, None) if q is None else fitted(q, bound[0], *others) for q, bound, *others in rows]
    factors, bounds = (Sides(*(end[i] for end in ends)) for i in (0, 1))
    return factors, sides(lambda bound: bound[None], bounds)


def _recorded(norms, i, estimate):
    """A norm that was passed to ``update``, where it is a number."""
    return estimate if norms is None else jnp.where(jnp.isnan(norms[i]), estimate, norms[i])


def _halley(factors, bounds, x, v, rate, decay, norms):
    """Q <- Q - rate / |T + c| (T - c) Q with T = W W', W = P x, c = its mean eigenvalue where W is white."""
    del v
    w = both(transposed, factors, both(times, factors, x))

    def fitted(q, bound, w, _, norms):
        c = w.shape[1] * 1.0
        if q.ndim == 1:
            gain = jnp.sum(jnp.square(w), 1)
            size = jnp.max(gain) + c
            bound = jnp.maximum(decay * bound + (1 - decay) * size, size)
            return q * (1 - rate / bound * (gain - c)), bound
        gain = multiply(w, w.mT)
        size = _recorded(norms, 0, largest_eigenvalue(gain)) + c
        bound = jnp.maximum(decay * bound + (1 - decay) * size, size)
        return _symmetrized(q - rate / bound * (multiply(gain, q) - c * q), norms), bound

    return _fitted(fitted, factors, bounds, Sides(w, w.mT), Sides(w, w.mT), norms)


def _symmetrized(q, norms):
    """One step of a rotation that makes Q more symmetric, so that rounding does not accumulate."""
    skew = q.mT - q
    size = jnp.sqrt(largest_eigenvalue(multiply(skew.mT, skew)))
    skew = skew / (_recorded(norms, 1, size) + TINY)
    once = multiply(skew, q)
    twice = multiply(skew, once)
    bend = jnp.trace(twice)
    best = -jnp.trace(once) / jnp.where(bend < 0, bend, -1.0)
    a = jnp.where(bend < 0, jnp.minimum(best, 0.125), 0.125)
    return q + a * (once + a / 2 * twice)


def _triangular(factors, bounds, x, v, rate, decay, norms):
    """:func:`kron`'s step, divided by the largest recent norm."""
    a, b = both(times, factors, x), both(solved, factors, v)

    def fitted(q, bound, a, b, norms):
        if q.ndim == 1:
            gain, cost = (jnp.sum(jnp.square(y), 1) for y in (a, b))
            size = jnp.max(gain + cost)
        else:
            gain, cost = multiply(a, a.mT), multiply(b, b.mT)
            size = _recorded(norms, 0, largest_eigenvalue(gain + cost))
        bound = jnp.maximum(decay * bound + (1 - decay) * size, size)
        change = multiply(jnp.triu(gain - cost), q) if q.ndim == 2 else (gain - cost) * q
        return q - rate / (bound + TINY) * change, bound

    return _fitted(fitted, factors, bounds, Sides(a, a.mT), Sides(b, b.mT), norms)


def psgd(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.0,
    precond_lr: ArrayLike = 0.1,
    fit: str = "Q0.5EQ1.5",
    fit_gradient: bool = True,
    bound_decay: ArrayLike = 0.9,
    damping: ArrayLike = 1e-9,
    max_rms: ArrayLike = 2.0,
    max_entry: ArrayLike = 10.0,
    init_scale: ArrayLike | None = None,
    max_size: int | jax.Array | None = None,
    max_skew: ArrayLike = 1,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    seed: int | jax.Array = 0,
    layout: Any | None = None,
) -> GradientTransformation:
    """PSGD by products alone: whitens the gradient.

    Li, "Preconditioned Stochastic Gradient Descent" (2015, arXiv 1512.04202), in the form of its author's code since
    2025 (psgd_torch, KronWhiten). Descends from :func:`kron`. For a matrix g with one factor Q per side, P = Q'Q, and
    the damped gradient x = g + (damping + 2^-23 |g|) v with normal v::

        W = P_L x P_R            T = W W'
        l <- max(bound_decay l + (1 - bound_decay) (|T| + c), |T| + c)
        Q_L <- Q_L - (precond_lr / l) (T Q_L - c Q_L)
        u = P_L m P_R            p <- p - lr (clip(u) + weight_decay p)

    c is the number of columns of W; Q_R is fitted to W'W in the same way. Each fit ends with a small rotation of Q
    towards symmetry.

    m is the plain mean of the gradients until its decay reaches ``beta``. The fit "EQ" is :func:`kron`'s.

    v depends only on ``seed`` and the step count; a tree passed to ``update`` as ``probe`` replaces it, and a pair of
    trees (inputs, outputs) of norms (|T|, of the skew part), as ``norms``, replaces those that are not NaN.

    Departures: norms are the bound of :func:`kron`, where the official code draws random vectors; the factors are not
    balanced, which does not change P.

    Args:
      learning_rate: a number or a schedule; 1e-3.
      beta: decay of the mean of the gradient, in [0, 1).
      precond_lr: largest relative change of a factor per step.
      fit: "Q0.5EQ1.5", without solves, or "EQ", with triangular factors.
      fit_gradient: fit Q to the gradient instead of its mean.
      bound_decay: decay of the bound l, in [0, 1).
      damping: noise added to the gradient that Q is fitted to.
      max_rms: largest root mean square of a matrix in the update.
      max_entry: largest entry of the update.
      init_scale: scale of the initial P^(1/2); None computes it from the first gradient.
      max_size: longest side with a dense factor; None is unlimited.
      max_skew: sides whose square is above this multiple of the number of entries have a diagonal factor: with 1, the
        longer side and vectors; ``math.inf`` makes all sides dense.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.
      seed: seed of v.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 + 4 (n^2 + m) / mn bytes of state per float32 parameter, for the shorter side n.

    Raises:
      ValueError: a number is out of range, or ``fit`` is unknown.
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"fit": fit, "fit_gradient": fit_gradient, "bound_decay": bound_decay, "damping": damping}
    sizes = {"max_rms": max_rms, "max_entry": max_entry, "max_size": max_size, "max_skew": max_skew}
    return chain(
        scale_by_psgd(beta, precond_lr, init_scale=init_scale, seed=seed, layout=layout, **how, **sizes),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
