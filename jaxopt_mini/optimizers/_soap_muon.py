"""SOAP-Muon: Muon on a momentum that SOAP has whitened."""

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
    schedule_value,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import multiply
from jaxopt_mini.matrices import (
    as_leaves,
    grams,
    map_with_sides,
    on_sides,
    resolve_layout,
    sides,
    wide_matrices,
)
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.optimizers._soap import checked_dim, initial_state, inverse, refreshed
from jaxopt_mini.orthogonal import Coefficients, coefficients, orthogonalize
from jaxopt_mini.tree import (
    absolute_square,
    average,
    cast_like,
    increment,
    inner,
    is_multiple,
    norm,
    per_parameter,
)

TINY = 1e-8  # from the official code; smallest root of v, and smallest norm


class ScaleBySoapMuonState(NamedTuple):
    """State of :func:`scale_by_soap_muon`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # (*stacked, inputs, outputs), in the basis
    factors: tuple[Any, Any]  # averaged Gram matrices of inputs and outputs: (*stacked, side, side), or () for none
    bases: tuple[Any, Any]  # their eigenvectors in columns, by approximately descending eigenvalues


def scale_by_soap_muon(
    beta: ArrayLike = 0.95,
    b2: ArrayLike = 0.9,
    *,
    power: ArrayLike = 0.5,
    precondition_frequency: int | jax.Array = 1,
    max_precond_dim: int | jax.Array = 10000,
    gated: Any | Callable[[Params], Any] | None = None,
    gate_floor: ScalarOrSchedule = 0.45,
    gate_cap: ScalarOrSchedule = 0.85,
    min_agreement: ArrayLike = 0.2,
    ns_coeffs: Coefficients = "convergent",
    ns_steps: int | jax.Array = 12,
    eps: ArrayLike = 1e-14,
    mu_dtype: DTypeLike | None = None,
    ns_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`soap_muon` on a tree of matrices, with the same arguments, before the scale by shape.

    Returns:
      A transformation with a :class:`ScaleBySoapMuonState`.
    """
    check_fraction(beta=beta, b2=b2, min_agreement=min_agreement)
    check_nonnegative(power=power, gate_floor=gate_floor, gate_cap=gate_cap, ns_steps=ns_steps, eps=eps)
    longest = checked_dim(max_precond_dim, precondition_frequency)
    polar = {"preconditioning": "schatten", "eps": eps, "dtype": ns_dtype}

    def init(params):
        return ScaleBySoapMuonState(*initial_state(params, layout, longest, mu_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, k = resolve_layout(layout, updates), state.count
        bounds = schedule_value(gate_floor, k), schedule_value(gate_cap, k)
        due = jnp.where(k == 0, 0, jnp.where(is_multiple(k, precondition_frequency), 1, 2))
        mu = average(updates, state.mu, beta)

        def one(w, g, v, is_gated, factors, bases):
            if not jax.tree.leaves(bases):
                return w, v, factors, bases
            h = on_sides(w, bases)
            new = average(absolute_square(h), v, b2)
            z = on_sides(h / jnp.maximum(new, TINY**2) ** power, inverse(bases))
            z, v = _sized(jnp.where(k == 0, w, z), w), jnp.where(k == 0, v, new)
            gate = 1.0 if gated is None else jnp.where(is_gated, jnp.clip(_trust(w, z, g, min_agreement), *bounds), 1.0)
            w = _sized(w + gate * (z - w), w)
            factors = sides(lambda old, gram: average(gram, old, b2), factors, grams(g))
            v, bases = refreshed(due, v, factors, bases)
            return w, v, factors, bases

        w, g = wide_matrices(entries, average(updates, mu, beta), updates)
        trees = (w, g, state.nu, _flags(gated, updates, g))
        w, nu, *pairs = map_with_sides(one, entries, trees, (state.factors, state.bases), 2)
        new = orthogonalize(
            as_leaves(w, entries, updates), entries, coefficients(ns_coeffs, ns_steps), ns_steps, **polar
        )
        return cast_like(new, updates), ScaleBySoapMuonState(increment(k), cast_like(mu, state.mu), nu, *pairs)

    return keep_shardings(init, update)


def _flags(gated, updates, matrices):
    """For each matrix whether it is gated, with the stacked axes."""
    chosen = per_parameter(False if gated is None else gated, updates)
    spread = jax.tree.map(lambda flag, tree: jax.tree.map(lambda _: bool(flag), tree), chosen, updates)
    return jax.tree.map(lambda flag, matrix: jnp.full(matrix.shape[:-2], flag), spread, matrices)


def _schatten(matrix):
    """The fourth root of the sum of fourth powers of the singular values, of entries scaled to 1 to avoid overflow."""
    largest = jnp.maximum(jnp.max(jnp.abs(matrix), initial=0.0), TINY)
    small = matrix / largest
    wide = small if matrix.shape[0] <= matrix.shape[1] else small.mT
    return largest * jnp.maximum(jnp.sqrt(norm(multiply(wide, wide.conj().mT))), TINY)


def _sized(matrix, like):
    return matrix * (_schatten(like) / _schatten(matrix))


def _trust(w, z, g, min_agreement):
    """How far z points with w, and as much along the gradient as w."""

    def cosine(a, b):
        return inner(a, b) / jnp.maximum(norm(a) * norm(b), TINY)

    agreement = jnp.clip((cosine(z, w) - min_agreement) / (1 - min_agreement), 0, 1)
    return agreement * jnp.clip(cosine(z, g) / jnp.maximum(cosine(w, g), TINY), 0, 1)


def soap_muon(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    b2: ArrayLike = 0.9,
    power: ArrayLike = 0.5,
    precondition_frequency: int | jax.Array = 1,
    max_precond_dim: int | jax.Array = 10000,
    gated: Any | Callable[[Params], Any] | None = None,
    gate_floor: ScalarOrSchedule = 0.45,
    gate_cap: ScalarOrSchedule = 0.85,
    min_agreement: ArrayLike = 0.2,
    ns_coeffs: Coefficients = "convergent",
    ns_steps: int | jax.Array = 12,
    min_ratio: ArrayLike | None = 0.3825,
    min_ratio_of: str = "outputs",
    min_ratio_power: ArrayLike = 1.0,
    radial: tuple[ArrayLike, ArrayLike] | None = (0.5, 1.0),
    weight_decay: ScalarOrSchedule = 0.025,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    ns_dtype: DTypeLike | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_eps: ArrayLike = 1e-8,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon on a momentum whitened in SOAP's eigenbasis.

    The optimizer of the records 44 and 46 of modded-nanogpt's optimization track (2026). Descends from :func:`soap`,
    and on its last lines from :func:`muon`. For a matrix g (m, n)::

        m <- beta m + (1 - beta) g                    w = beta m + (1 - beta) g
        h = Q_L' w Q_R                                v <- b2 v + (1 - b2) h^2
        z = Q_L (h / sqrt(v)) Q_R' |w| / |Q_L (h / sqrt(v)) Q_R'|
        o = newton_schulz(z) sqrt(max(1, fan_out / fan_in))
        p <- p - lr o
        L <- b2 L + (1 - b2) g g'                     R <- b2 R + (1 - b2) g' g

    with Schatten-4 norms, and the eigenvectors Q of L and R, updated as in SOAP. ``min_ratio`` scales up neurons of
    o that are small compared with their weights; ``radial`` scales the part of o along p, which alone then changes
    the norm of p. The first step is Muon's. Record 44 is ``min_ratio_of="matrix", weight_decay=0.0``; for the
    output projections of attention, ``gated``, it replaces z by w + gate (z - w), with a gate that grows with the
    cosines of z with w and g.

    Args:
      learning_rate: a number or a schedule; 0.0375.
      beta: decay of the momentum, in [0, 1).
      b2: decay of v, L and R, in [0, 1).
      power: power of v by which h is divided.
      precondition_frequency: steps between updates of the basis.
      max_precond_dim: longest side with a basis; matrices without any take Muon's step.
      gated: leaves with a gate, a tree of booleans or a function of the parameters that returns one; None is none.
      gate_floor: smallest gate, a number or a schedule.
      gate_cap: largest gate, a number or a schedule.
      min_agreement: cosine of z and w at which the gate closes, in [0, 1).
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of the iteration.
      min_ratio: see :func:`muon`, like the following arguments.
      min_ratio_of: what ``min_ratio`` compares, the whole "matrix" or each neuron of the "outputs".
      min_ratio_power: power of the factor of ``min_ratio``.
      radial: (outward, inward), factors of the part of o along p.
      weight_decay: a number or a schedule, times the learning rate, of entries that o moves towards zero.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      ns_dtype: dtype that the iteration multiplies in; None is at least float32.
      adam_b1: AdamW's b1.
      adam_b2: AdamW's b2.
      adam_eps: AdamW's eps.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``, which is usually too large.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter of a matrix.

    Raises:
      ValueError: a number is out of range, or a name is unknown.

    >>> tx = soap_muon(0.1, weight_decay=0.0)
    >>> params = {"w": jnp.eye(2)}
    >>> updates, _ = tx.update({"w": jnp.array([[0.0, 9.0], [1.0, 0.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.005 -0.1  ]
     [-0.1   -0.005]]
    """
    check_nonnegative(adam_eps=adam_eps)
    whitening = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim}
    gate = {"gated": gated, "gate_floor": gate_floor, "gate_cap": gate_cap, "min_agreement": min_agreement}
    how = {"ns_coeffs": ns_coeffs, "ns_steps": ns_steps, "mu_dtype": mu_dtype, "ns_dtype": ns_dtype}
    size = {"min_ratio": min_ratio, "min_ratio_of": min_ratio_of, "min_ratio_power": min_ratio_power, "radial": radial}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "decay": "cautious_late"}
    matrices = chain(
        scale_by_soap_muon(beta, b2, power=power, layout=layout, **whitening, **gate, **how),
        *scaled_and_decayed(learning_rate, **size, **reduce, layout=layout),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": adam_eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout, "mu_dtype": mu_dtype}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
