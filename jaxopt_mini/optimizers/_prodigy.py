"""Prodigy: AdamW that estimates its learning rate from a fast-growing estimate of the distance to the solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import ProdigyState

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_length, check_nonnegative
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    absolute_square,
    average,
    cast_like,
    copied,
    difference,
    increment,
    inner,
    norm,
    scalar_dtype,
    times,
    total_weight,
    widen,
    zeros_like,
)


class LimitedProdigyState(NamedTuple):
    """State of :func:`prodigy` with a ``growth_rate``."""

    prodigy: ProdigyState
    estim_max: jax.Array  # float32[]: the largest estimate so far, towards which d grows


def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    betas: Sequence[ArrayLike] = (0.9, 0.999),
    beta3: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    estim_lr0: ArrayLike = 1e-6,
    estim_lr_coef: ArrayLike = 1.0,
    weight_decay: ArrayLike = 0.0,
    safeguard_warmup: bool = False,
    *,
    mask: Any | Callable[[Params], Any] | None = None,
    bias_correction: bool = True,
    growth_rate: ArrayLike | None = None,
) -> GradientTransformation:
    """AdamW with a learning rate from the distance traveled.

    Mishchenko, Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner" (2023, arXiv 2306.06101). Descends
    from :func:`dadapt_adamw`. The whole tree has one learning rate, d lr, with d of the previous step; p0 are the
    initial parameters::

        m <- b1 m + (1 - b1) d g                       v <- b2 v + (1 - b2) (d g)^2
        r <- b3 r + d d_lr <g, p0 - p> / d0            s <- b3 s + d d_lr g / d0
        d <- max(d, r / |s|_1)                         d_lr = d lr sqrt(1 - b2^t) / (1 - b1^t)
        p <- p - d_lr (m / (sqrt(v) + d eps) + weight_decay p)

    For a convex function, the inner products of the gradients with p0 - p give a lower bound of the distance to the
    solution. m and v need no bias correction while d grows by orders of magnitude, since old terms have little weight;
    the correction is in d_lr.

    Notation: d is ``estim_lr`` in the state, r ``numerator_weighted``, s ``grad_sum``, m and v ``exp_avg(_sq)``.

    Departures: a gradient of zero leaves d unchanged; in Optax d becomes NaN. Optax always applies bias correction, the
    official code by default doesn't: ``bias_correction=False``. With bfloat16
    parameters d and r are float32.

    Args:
      learning_rate: factor of the estimated learning rate, a number or a schedule that starts at 1.
      betas: decays of the means of the gradient and of its square, both in [0, 1).
      beta3: decay of r and s, in [0, 1); None is the root of the second beta.
      eps: added outside the root, times d.
      estim_lr0: the initial d; smaller than any plausible learning rate.
      estim_lr_coef: factor of the estimate; 0.5 to 2.
      weight_decay: times d_lr.
      safeguard_warmup: exclude the learning rate from s, for schedules that start near 0.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      bias_correction: False uses d_lr = d lr.
      growth_rate: largest factor by which d grows in a step, once it has left ``estim_lr0``, e.g. 1.02; None is
        unlimited.

    Returns:
      A transformation with an ``optax.contrib.ProdigyState``, inside a :class:`LimitedProdigyState` with a
      ``growth_rate``; 16 bytes of state per float32 parameter.

    >>> loss = lambda params: jnp.sum((params - 3.0) ** 2)
    >>> params, tx = jnp.zeros(2), prodigy()
    >>> state = tx.init(params)
    >>> for _ in range(60):
    ...     updates, state = tx.update(jax.grad(loss)(params), state, params)
    ...     params = params + updates
    >>> bool(jnp.all(jnp.abs(params - 3.0) < 1.5)), bool(0.1 < state.estim_lr < 3.0)
    (True, True)
    """
    check_length(2, betas=betas)
    b1, b2 = betas
    check_fraction(b1=b1, b2=b2, beta3=beta3)
    check_nonnegative(learning_rate=learning_rate, eps=eps, estim_lr0=estim_lr0, estim_lr_coef=estim_lr_coef)
    check_nonnegative(weight_decay=weight_decay)
    check_at_least_one(growth_rate=growth_rate)
    b3 = b2**0.5 if beta3 is None else beta3
    decay = add_decayed_weights(weight_decay, mask)

    def init(params):
        dtype = scalar_dtype(params)
        state = ProdigyState(
            exp_avg=zeros_like(params),
            exp_avg_sq=zeros_like(params),
            grad_sum=zeros_like(params),
            params0=copied(params),
            estim_lr=jnp.array(estim_lr0, dtype),
            numerator_weighted=jnp.zeros((), dtype),
            count=jnp.zeros((), jnp.int32),
        )
        return state if growth_rate is None else LimitedProdigyState(state, jnp.array(estim_lr0, dtype))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "prodigy")
        limited, state = (None, state) if growth_rate is None else (state, state.prodigy)
        count = increment(state.count)
        d, d_lr = widen(state.estim_lr), rate(state, count)
        dg = jax.tree.map(lambda g: d * widen(g), updates)
        m = average(dg, state.exp_avg, b1)
        v = average(jax.tree.map(absolute_square, dg), state.exp_avg_sq, b2)
        weight = (d if safeguard_warmup else d_lr) / estim_lr0
        s = jax.tree.map(lambda s, dg: b3 * widen(s) + weight * dg, state.grad_sum, dg)
        way = difference(state.params0, params)
        r = b3 * widen(state.numerator_weighted) + d / estim_lr0 * d_lr * inner(updates, way)
        size = norm(s, ord=1)
        estimate = estim_lr_coef * r / jnp.where(size > 0, size, jnp.inf)
        new_d = jnp.maximum(d, estimate)
        estim_max = estimate if limited is None else jnp.maximum(limited.estim_max, estimate)
        if growth_rate is not None:
            new_d = jnp.minimum(estim_max, growth_rate * jnp.where(d == estim_lr0, new_d, d))
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + new_d * eps), m, v)
        direction, _ = decay.update(direction, decay.init(params), params)
        step = jax.tree.map(lambda u: times(u, -d_lr), direction)
        new = ProdigyState(m, v, s, state.params0, new_d, r, count)
        new = cast_like(new, state)
        return cast_like(step, updates), new if limited is None else LimitedProdigyState(new, jnp.asarray(estim_max))

    def rate(state, count):
        correction = jnp.sqrt(total_weight(b2, count)) / total_weight(b1, count) if bias_correction else 1.0
        return widen(state.estim_lr) * schedule_value(learning_rate, state.count) * correction

    return transformation(init, update)
