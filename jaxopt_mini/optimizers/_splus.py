"""SPlus: the sign of the momentum in the eigenbasis of Shampoo's preconditioner, evaluated on an average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    Updates,
    require_params,
    schedule_value,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative, check_static
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.linalg import eigh
from jaxopt_mini.matrices import (
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
from jaxopt_mini.optimizers._soap import inverse
from jaxopt_mini.tree import (
    average,
    cast_like,
    chosen_leaves,
    increment,
    is_multiple,
    refuse_integers,
    total_weight,
    widen,
    zeros_like,
)


class SplusState(NamedTuple):
    """State of :func:`splus`."""

    count: jax.Array  # int32[]: completed steps
    decay: jax.Array  # float32[]: of the average
    mu: Updates  # like the parameters
    average: Updates  # of the parameters, from zero
    factors: tuple[Any, Any]  # averaged Gram matrices of inputs and outputs: (*stacked, side, side), or () for none
    bases: tuple[Any, Any]  # their eigenvectors in columns; identities before the first step

    def evaluation_params(self, params: Params) -> Params:
        """The average with its bias corrected."""
        weight = jnp.where(self.count > 0, total_weight(self.decay, jnp.maximum(self.count, 1)), 1.0)
        return jax.tree.map(
            lambda p, a: jnp.where(self.count > 0, widen(a) / weight, widen(p)).astype(p.dtype), params, self.average
        )


def splus(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    ema_decay: ArrayLike = 0.999,
    eps: ArrayLike = 1e-30,
    inverse_every: int | jax.Array = 100,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Any | Callable[[Params], Any] | None = None,
    max_dim: int | jax.Array = 10000,
    other_scale: ArrayLike = 0.001,
    layout: Any | None = None,
) -> GradientTransformation:
    """The sign of the momentum in Shampoo's eigenbasis, evaluated on an average.

    Frans, Levine, Abbeel, "A Stable Whitening Optimizer for Efficient Neural Network Training" (2025,
    arXiv 2506.07254). Descends from :func:`shampoo`. For a matrix g (m, n)::

        m <- b1 m + (1 - b1) g         L <- b2 L + (1 - b2) g g'         R <- b2 R + (1 - b2) g' g
        p <- p - lr (2 / (m + n)) Q_L sign(Q_L' m Q_R) Q_R'
        x <- ema_decay x + (1 - ema_decay) p
        p <- p - lr (2 / (m + n)) weight_decay p

    The eigenvectors Q of L and R are computed after step 1 and every ``inverse_every`` steps. Vectors use the sign of
    the momentum with the rate lr ``other_scale``, as do matrices with a side longer than ``max_dim``, in the basis of
    their other side. Evaluate with x: ``states.evaluation_params(state, params)``.

    Args:
      learning_rate: a number or a schedule; 0.1.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of L and R, in [0, 1).
      ema_decay: decay of the average x, in [0, 1).
      eps: added to the diagonals of L and R.
      inverse_every: steps between eigendecompositions.
      weight_decay: a number or a schedule, times the rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      max_dim: sides from this length on have no basis.
      other_scale: rate of vectors and of longer matrices, relative to ``learning_rate``.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with a :class:`SplusState`; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    >>> tx = splus(1.0, weight_decay=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[9.0, -1.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"])
    [[-0.5  0.5]
     [-0.  -0.5]]
    """
    check_fraction(b1=b1, b2=b2, ema_decay=ema_decay)
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, eps=eps, other_scale=other_scale)
    check_nonnegative(max_dim=max_dim)
    check_at_least_one(inverse_every=inverse_every)
    check_static(max_dim=max_dim)
    max_dim = int(max_dim)

    def init(params):
        refuse_integers(params)
        entries = resolve_layout(layout, params)
        factors = square_sides(entries, matrix_shapes(params, entries), max_dim - 1)
        count, decay = jnp.zeros((), jnp.int32), jnp.array(ema_decay, jnp.float32)
        return SplusState(count, decay, zeros_like(params), zeros_like(params), factors, identity_sides(factors))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "splus")
        entries, count = resolve_layout(layout, params), increment(state.count)
        due = (count == 1) | is_multiple(count, inverse_every)
        mu = average(updates, state.mu, b1)

        def one(g, m, factors, bases):
            step = on_sides(jnp.sign(on_sides(m, bases)), inverse(bases))
            factors = sides(lambda old, new: average(new, old, b2), factors, grams(g))

            def renew():
                return sides(lambda f: eigh(f + eps * jnp.eye(len(f), dtype=f.dtype))[1], factors)

            return step, factors, jax.lax.cond(due, renew, lambda: bases)

        trees = wide_matrices(entries, updates, mu)
        step, factors, bases = map_with_sides(one, entries, trees, (state.factors, state.bases))
        rates = jax.tree.map(
            lambda p, entry: schedule_value(learning_rate, state.count) * scale(p, entry), params, entries
        )
        step = jax.tree.map(lambda u, rate: -rate * u, as_leaves(step, entries, updates), rates)
        moved = jax.tree.map(lambda p, u: widen(p) + u, params, step)
        decay, chosen = schedule_value(weight_decay, state.count), chosen_leaves(mask, params)
        decayed = lambda u, p, rate, take: u - rate * decay * p if take else u
        step = jax.tree.map(decayed, step, moved, rates, chosen)
        averaged = average(moved, state.average, state.decay)
        stored = cast_like(mu, state.mu), cast_like(averaged, state.average)
        return cast_like(step, updates), SplusState(count, state.decay, *stored, factors, bases)

    def scale(p, entry):
        fan_in, fan_out = entry.fans(p.shape)
        is_long = not (entry.inputs and entry.outputs) or max(fan_in, fan_out) > max_dim
        return other_scale if is_long else 2 / max(1, fan_in + fan_out)

    return keep_shardings(init, update)
