"""Muown: Muon on the directions of neurons, Adam on their norms."""

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
    require_params,
    require_real,
    schedule_value,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    map_matrices,
    matrix_shapes,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._muon import with_adam_on_rest
from jaxopt_mini.orthogonal import STANDARD, Coefficients, coefficients, newton_schulz
from jaxopt_mini.tree import cast_like, chosen_leaves, evaluate, increment, mean, norm, total_weight, widen, zeros_like

TINY = 1e-10  # from the official code; added to roots and norms


class MuownState(NamedTuple):
    """State of :func:`muown`'s step on matrices; the arrays of neurons are (*stacked, 1, fan-out), float32."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # momentum of the directions, like the parameters
    magnitude: Updates  # norm of each output neuron's weights
    length: Updates  # norm of the hidden vector of its direction
    magnitude_mu: Updates  # Adam's moments of the magnitude
    magnitude_nu: Updates
    neuron_nu: Updates  # mean square of its update


def _lengths(matrix):
    return jnp.sqrt(jnp.sum(jnp.square(widen(matrix)), -2, keepdims=True))


def step_by_muown(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    neuron_b2: ArrayLike | None = None,
    rms: ArrayLike = 0.2,
    by_longest: bool = True,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The step of :func:`muown` on a tree of matrices, with the same arguments.

    Returns:
      A transformation with a :class:`MuownState`.
    """
    check_fraction(beta=beta, b1=b1, b2=b2, neuron_b2=neuron_b2)
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, eps=eps, rms=rms, ns_steps=ns_steps)

    def init(params):
        require_real(params, "muown")
        entries = resolve_layout(layout, params)
        matrices = matrix_shapes(params, entries)
        zeros = lambda: jax.tree.map(lambda m: jnp.zeros((*m.shape[:-2], 1, m.shape[-1]), jnp.float32), matrices)
        lengths = lambda: evaluate(lambda p: jax.tree.map(_lengths, as_matrices(p, entries)), params)
        count = jnp.zeros((), jnp.int32)
        return MuownState(count, zeros_like(params), lengths(), lengths(), zeros(), zeros(), zeros())

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "muown")
        entries, count = resolve_layout(layout, params), increment(state.count)
        rate, decay = (schedule_value(value, state.count) for value in (learning_rate, weight_decay))

        def one(decay, grad, w, mu, size, length, m, v, neuron):
            safe = jnp.where(size > 0, size, 1.0)
            unit = w / safe
            d_size = jnp.sum(grad * unit, 0, keepdims=True)
            # A neuron of zeros has no direction: it takes Muon's step, which gives it one.
            factor = jnp.where(size > 0, size / jnp.where(length > 0, length, 1.0), 1.0)
            d_hidden = factor * (grad - unit * d_size)
            mu = beta * mu + d_hidden
            o = newton_schulz(
                d_hidden + beta * mu if nesterov else mu, coefficients(ns_coeffs, ns_steps), ns_steps, eps=1e-7
            )
            if neuron_b2 is not None:
                neuron = neuron_b2 * neuron + (1 - neuron_b2) * mean(jnp.square(o), 0, keepdims=True)
                new = o / (jnp.sqrt(neuron) + TINY)
                o = new * (norm(o) / (norm(new) + TINY))
            fan_in, fan_out = w.shape
            scale = rms * (max(fan_in, fan_out) if by_longest else max(1.0, fan_out / fan_in)) ** 0.5
            hidden = unit * length - rate * scale * o
            m, v = b1 * m + (1 - b1) * d_size, b2 * v + (1 - b2) * jnp.square(d_size)
            step = m / total_weight(b1, count) / (jnp.sqrt(v / total_weight(b2, count)) + eps)
            length = _lengths(hidden)
            size = jnp.where(size > 0, size - rate * step, length)
            new = size * hidden / jnp.where(length > 0, length, 1.0) - rate * decay * w
            size = jnp.where(decay == 0, size, _lengths(new))
            return new - w, mu, size, length, m, v, neuron

        given = wide_matrices(entries, updates, params, state.mu)
        decayed = lambda take, m: jnp.full(m.shape[:-2], decay if take else 0.0, jnp.float32)
        chosen = chosen_leaves(weight_decay_mask, params)
        decays = jax.tree.map(decayed, chosen, matrix_shapes(params, entries))
        new = map_matrices(one, entries, decays, *given, *state[2:])
        step, mu, *neurons = unzip(new, entries, 7)
        step, mu = (as_leaves(tree, entries, params) for tree in (step, mu))
        kept = (cast_like(tree, old) for tree, old in zip(neurons, state[2:], strict=True))
        return cast_like(step, updates), MuownState(count, cast_like(mu, state.mu), *kept)

    return keep_shardings(init, update)


def muown(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    neuron_b2: ArrayLike | None = None,
    rms: ArrayLike = 0.2,
    by_longest: bool = True,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon on the directions of the output neurons, Adam on their norms.

    Liang et al., "Muown" (2026, github.com/kcc-lion/muown): weight normalization inside the optimizer. Descends from
    :func:`muon`. Each output neuron w has a norm s and a hidden vector h along w, at first h = w::

        r = <g, w> / s                           q = (g - r w / s) s / |h|
        M <- beta M + q                          O = newton_schulz(q + beta M)
        h <- h - lr rms sqrt(max(fan_in, fan_out)) O
        s <- s - lr adam(r)                      w <- s h / |h| - lr weight_decay w

    NorMuown is ``neuron_b2=0.95, by_longest=False``: the second moment of :func:`normuon` after the iteration.

    Departures: a neuron whose weights are all zero takes Muon's step, where the official code divides by zero; fused
    projections are not guessed from the shape (fan_out = 3 fan_in), so give them a stacked layout, or use
    ``split_outputs``.

    Args:
      learning_rate: a number or a schedule; 3e-4, AdamW's.
      beta: decay of the momentum, in [0, 1).
      nesterov: use Nesterov momentum.
      b1: Adam's b1, for the norms.
      b2: Adam's b2.
      eps: added to Adam's root.
      neuron_b2: decay of each neuron's mean square, in [0, 1); None doesn't divide by its root.
      rms: root mean square of the step of h relative to the learning rate.
      by_longest: scale by sqrt(max(fan_in, fan_out)), else by sqrt(max(1, fan_out / fan_in)).
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of the iteration.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      adam_b1: AdamW's b1, for all other parameters.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix, and 20 per output neuron.

    >>> tx = muown(0.1)
    >>> params = {"w": jnp.array([[3.0], [4.0]])}
    >>> updates, _ = tx.update({"w": jnp.array([[0.3], [0.4]])}, tx.init(params), params)
    >>> print((params["w"] + updates["w"]).ravel().round(2))  # along w: the norm shrinks by the learning rate
    [2.94 3.92]
    """
    numbers = {"beta": beta, "b1": b1, "b2": b2, "eps": eps, "neuron_b2": neuron_b2, "rms": rms}
    iteration = {"nesterov": nesterov, "by_longest": by_longest, "ns_coeffs": ns_coeffs, "ns_steps": ns_steps}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "layout": layout}
    matrices = step_by_muown(learning_rate, **numbers, **iteration, **reduce)
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
