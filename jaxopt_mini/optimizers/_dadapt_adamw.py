"""D-Adapted AdamW: AdamW that estimates its learning rate from a bound on the distance to the solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import DAdaptAdamWState

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_length, check_nonnegative
from jaxopt_mini.tree import (
    absolute_square,
    average,
    cast_like,
    chosen_leaves,
    increment,
    inner,
    norm,
    scalar_dtype,
    total_weight,
    widen,
    zeros_like,
)


def dadapt_adamw(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    eps: ArrayLike = 1e-8,
    estim_lr0: ArrayLike = 1e-6,
    weight_decay: ArrayLike = 0.0,
    *,
    mask: Any | Callable[[Params], Any] | None = None,
    bias_correction: bool = True,
    growth_rate: ArrayLike | None = None,
) -> GradientTransformation:
    """AdamW that estimates its own learning rate.

    Defazio, Mishchenko, "Learning-Rate-Free Learning by D-Adaptation" (2023, arXiv 2301.07733). Descends from
    :func:`adamw`. The whole tree has one learning rate, d lr, with d of the previous step; b is the root of b2::

        r <- b r + (1 - b) d_lr <g, s / (sqrt(v) + eps)>         with s and v of the previous step
        m <- b1 m + (1 - b1) d_lr g                              v <- b2 v + (1 - b2) g^2
        s <- b s + (1 - b) d_lr g                                d_lr = d lr sqrt(1 - b2^t) / (1 - b1^t)
        d <- max(d, min(r / ((1 - b) |s|_1), growth_rate d))
        p <- p - m / (sqrt(v) + eps) - d_lr weight_decay p

    :func:`prodigy` reaches a learning rate of the same size sooner. Notation: d is ``estim_lr`` in the state, r
    ``numerator_weighted``, s ``grad_sum``, m and v ``exp_avg(_sq)``.

    Departures: a gradient of zero leaves d unchanged; in Optax d becomes NaN. Optax always applies bias correction, the
    official code by default doesn't: ``bias_correction=False``. With bfloat16 parameters d and r are float32.

    Args:
      learning_rate: factor of the estimated learning rate, a number or a schedule that starts at 1.
      betas: decays of the means of the gradient and of its square, both in [0, 1).
      eps: added outside the root.
      estim_lr0: the initial d; smaller than any plausible learning rate.
      weight_decay: times d_lr.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      bias_correction: False uses d_lr = d lr.
      growth_rate: largest factor by which d grows in a step, e.g. 1.02; None is unlimited.

    Returns:
      A transformation with an ``optax.contrib.DAdaptAdamWState``; 12 bytes of state per float32 parameter.

    >>> tx, params = dadapt_adamw(estim_lr0=0.01), jnp.zeros(2)
    >>> updates, state = tx.update(jnp.array([5.0, 0.01]), tx.init(params), params)
    >>> print(updates.round(4))
    [-0.01 -0.01]
    """
    check_length(2, betas=betas)
    b1, b2 = betas
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(learning_rate=learning_rate, eps=eps, estim_lr0=estim_lr0, weight_decay=weight_decay)
    check_at_least_one(growth_rate=growth_rate)
    b = b2**0.5

    def init(params):
        dtype = scalar_dtype(params)
        m, v, s = (zeros_like(params) for _ in range(3))
        d, r = jnp.array(estim_lr0, dtype), jnp.zeros((), dtype)
        return DAdaptAdamWState(m, v, s, d, r, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "dadapt_adamw")
        count = increment(state.count)
        d_lr = widen(state.estim_lr) * schedule_value(learning_rate, state.count)
        if bias_correction:
            d_lr = d_lr * jnp.sqrt(total_weight(b2, count)) / total_weight(b1, count)
        divided = jax.tree.map(lambda s, v: widen(s) / (jnp.sqrt(widen(v)) + eps), state.grad_sum, state.exp_avg_sq)
        r = b * widen(state.numerator_weighted) + (1 - b) * d_lr * inner(updates, divided)
        scaled = jax.tree.map(lambda g: d_lr * widen(g), updates)
        m, s = average(scaled, state.exp_avg, b1), average(scaled, state.grad_sum, b)
        v = average(jax.tree.map(absolute_square, updates), state.exp_avg_sq, b2)
        size = (1 - b) * norm(s, ord=1)
        d, estimate = widen(state.estim_lr), r / jnp.where(size > 0, size, jnp.inf)
        d = jnp.maximum(d, estimate if growth_rate is None else jnp.minimum(estimate, growth_rate * d))
        decayed = lambda p, take: d_lr * weight_decay * widen(p) if take else 0.0
        decay = jax.tree.map(decayed, params, chosen_leaves(mask, params))
        step = jax.tree.map(lambda m, v, decay: -m / (jnp.sqrt(v) + eps) - decay, m, v, decay)
        return cast_like(step, updates), cast_like(DAdaptAdamWState(m, v, s, d, r, count), state)

    return transformation(init, update)
