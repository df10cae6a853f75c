"""AdEMAMix: AdamW with a second, much slower average of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax.contrib import ScaleByAdemamixState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Schedule,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.schedules import warmup
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, zeros_like


def scale_by_ademamix(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`ademamix`, without decay and learning rate.

    Args:
      b1: see :func:`ademamix`, like the other arguments.
      b2: decay of the mean of the squared gradient, in [0, 1).
      b3: decay of the slow mean, in [0, 1), a number or a schedule.
      alpha: weight of the slow mean, a number or a schedule.
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that the two means are stored in; None uses each parameter's dtype.

    Returns:
      A transformation with an ``optax.contrib.ScaleByAdemamixState``.
    """
    check_fraction(b1=b1, b2=b2, b3=b3)
    check_nonnegative(alpha=alpha, eps=eps, eps_root=eps_root)

    def init(params):
        zero, zeros = (lambda: jnp.zeros((), jnp.int32)), (lambda: zeros_like(params, mu_dtype))
        return ScaleByAdemamixState(zero(), zero(), zeros(), zeros(), zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        a = schedule_value(alpha, state.count_m2)
        m1 = average(updates, state.m1, b1)
        m2 = average(updates, state.m2, schedule_value(b3, state.count_m2))
        nu = average(jax.tree.map(absolute_square, updates), state.nu, b2)
        # The slow mean has no bias correction.
        short, v = bias_correction(m1, b1, count), bias_correction(nu, b2, count)
        direction = jax.tree.map(lambda s, l, v: (s + a * l) / (jnp.sqrt(v + eps_root) + eps), short, m2, v)
        new = ScaleByAdemamixState(
            count,
            increment(state.count_m2),
            cast_like(m1, state.m1),
            cast_like(m2, state.m2),
            cast_like(nu, state.nu),
        )
        return cast_like(direction, updates), new

    return transformation(init, update)


def half_life_warmup(start: ArrayLike, end: ArrayLike, steps: int) -> Schedule:
    """A decay whose half-life rises linearly, from that of ``start`` to that of ``end`` in ``steps`` steps.

    Args:
      start: initial decay of an average, in (0, 1).
      end: final decay, in (0, 1).
      steps: length of the warm-up; step t, from 1, is at the fraction t / steps.

    Returns:
      A schedule, int32[] -> float32[].

    >>> [round(half_life_warmup(0.5, 0.9, 2)(t).item(), 4) for t in range(3)]
    [0.8328, 0.9, 0.9]
    """
    way = warmup(lambda count: jnp.ones(()), steps - 1)

    def decay(count):
        short, long = (jnp.log(0.5) / jnp.log(b) for b in (start, end))
        return 0.5 ** (1 / (short + way(count) * (long - short)))

    return decay


def _peak(name: str, number: ScalarOrSchedule, check: Callable[..., None]) -> jax.Array:
    if callable(number):
        raise ValueError(f"{name} is already a schedule: give either it or {name}_warmup")
    check(**{name: number})
    return jnp.asarray(number)


def ademamix(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    b3_warmup: int | None = None,
    alpha_warmup: int | None = None,
) -> GradientTransformation:
    """AdamW with a second, slower average of the gradient.

    Pagliardini, Ablin, Grangier, "The AdEMAMix Optimizer: Better, Faster, Older" (2024, arXiv 2409.03137). Beyond
    :func:`adamw`::

        l <- b3 l + (1 - b3) g
        p <- p - lr ((m_hat + alpha l) / (sqrt(v_hat) + eps) + weight_decay p)

    The paper warms up alpha linearly and b3 linearly in its half-life, both over the whole run; without that, large
    models diverge early: ``b3_warmup=steps, alpha_warmup=steps``.

    Notation: m, l, v are ``m1``, ``m2``, ``nu`` in the state.

    Departures: Optax has no built-in warm-ups. Schedules passed as ``b3`` and ``alpha`` are called with 0 in the first
    step, as in Optax; the built-in ones count from 1, as in the official torch code. The official default of alpha is 2
    in torch and 5 in JAX. ``mu_dtype`` applies to both means of the gradient in all steps; in Optax it also applies to
    the initial ``nu``, and is lost after the first step.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamw`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      b3: decay of the slow mean, in [0, 1), a number or a schedule; 0.999 for runs of a few thousand steps.
      alpha: weight of the slow mean, a number or a schedule; 2 to 10.
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that the two means are stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      b3_warmup: number of steps in which b3 rises from b1; None disables it.
      alpha_warmup: number of steps in which alpha rises from 0; None disables it.

    Returns:
      A transformation; 12 bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or both a schedule and a warm-up are given.

    >>> tx = ademamix(0.1, b3=0.9)
    >>> params = grads = jnp.float32(2.0)
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> round(updates.item(), 4)
    -0.15
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    if b3_warmup is not None:
        check_fraction(b1=b1)
        b3 = half_life_warmup(b1, _peak("b3", b3, check_fraction), b3_warmup)
    if alpha_warmup is not None:
        peak = _peak("alpha", alpha, check_nonnegative)
        alpha = warmup(lambda count: peak, alpha_warmup - 1)
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
