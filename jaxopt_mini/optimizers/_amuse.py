"""AMUSE: schedule-free Muon whose gradient is taken ever closer to the average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, Schedule, schedule_value
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.layout import infer
from jaxopt_mini.matrices import matrices_and_rest
from jaxopt_mini.optimizers._muon import scale_by_muon, scaled_and_decayed
from jaxopt_mini.optimizers._rmsprop import scale_by_rms
from jaxopt_mini.orthogonal import STANDARD, Coefficients
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import increment
from jaxopt_mini.wrappers._schedule_free import schedule_free


def _ramped(learning_rate: ScalarOrSchedule, steps: int) -> Schedule:
    """The learning rate times a factor that grows from 1 / steps to 1."""

    def schedule(count):
        ramp = increment(count).astype(jnp.float32) / steps
        return jnp.asarray(schedule_value(learning_rate, count) * jnp.minimum(1.0, ramp))

    return schedule


def amuse(
    learning_rate: ScalarOrSchedule,
    *,
    warmup_steps: int | jax.Array = 1000,
    beta: ArrayLike = 0.95,
    b1: ArrayLike = 0.9,
    rho: ArrayLike = 1.0,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    decay_at_y: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    r: ArrayLike = 0.0,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    ns_dtype: DTypeLike | None = None,
    adam_learning_rate: ScalarOrSchedule | None = None,
    adam_b2: ArrayLike = 0.999,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    eps: ArrayLike = 1e-10,
    layout: Any | None = None,
) -> GradientTransformation:
    """Schedule-free Muon, with schedule-free AdamW on the rest.

    Kim et al., "AMUSE: Anytime Muon with Stable Gradient Evaluation" (2026, arXiv 2605.22432). Descends from
    :func:`muon` and :func:`schedule_free_adamw`. For a matrix, with the gradient g at y, the parameters, and
    o = 0.2 sqrt(max(fan_in, fan_out)) times :func:`muon`'s iteration on its momentum::

        z <- z - lr (o + weight_decay z)
        x <- (1 - c) x + c z                      c: the weight of this step in the average
        y <- (1 - b) z + b x

    b is ``b1`` until the end of the warm-up, in step T; then b = 1 - (c (1 - c_T) / (c_T (1 - c)))^rho (1 - b1), so
    that y moves from z to x as the average becomes longer. For all other parameters o = g / (sqrt(v_hat) + eps).
    Evaluate with x: ``states.evaluation_params(state, params)``.

    As in the official code, x is recomputed from y and z with the new b, although y was formed with the previous one.

    Args:
      learning_rate: a number, or a schedule that doesn't decay; AdamW's, as updates of matrices have its size.
      warmup_steps: length T of a linear factor of the learning rate, >= 1; 3/8 of the run in the official recipe.
      beta: decay of the momentum, in [0, 1).
      b1: weight of the average in y during the warm-up, in (0, 1); 0.6 for language models.
      rho: power by which 1 - b falls; 0.8 for language models.
      weight_decay: a number or a schedule, times the learning rate and z.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      decay_at_y: the same times y, also for all other parameters.
      weight_lr_power: power of the learning rate in the weight of a step.
      r: power of the step in its weight.
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of the iteration.
      ns_dtype: dtype that it multiplies in.
      adam_learning_rate: learning rate of all other parameters; None is ``learning_rate``.
      adam_b2: decay of the mean of their squared gradient, in [0, 1).
      adam_weight_decay: their weight_decay.
      eps: added to its root.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.
    """
    check_nonnegative(learning_rate=learning_rate, adam_learning_rate=adam_learning_rate)
    check_nonnegative(adam_weight_decay=adam_weight_decay, rho=rho)
    check_static(warmup_steps=warmup_steps)
    check_at_least_one(warmup_steps=warmup_steps)
    warmup_steps = int(warmup_steps)
    check_fraction(adam_b2=adam_b2)
    layout = infer if layout is None else layout
    rate = _ramped(learning_rate, warmup_steps)
    other = rate if adam_learning_rate is None else _ramped(adam_learning_rate, warmup_steps)
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "layout": layout}
    matrices = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, 1e-7, debias=False, ns_dtype=ns_dtype, layout=layout),
        *scaled_and_decayed(rate, consistent_rms=0.2, **reduce),
    )
    vectors = chain(
        scale_by_rms(adam_b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(adam_weight_decay),
        scale_by_learning_rate(other),
    )
    how = {"r": r, "rate_ahead": False, "base_at_z": True, "decay_at_y": decay_at_y}
    how |= {"anneal": rho, "anneal_from": warmup_steps}
    averaged = lambda base, lr: schedule_free(base, lr, b1, weight_lr_power, **how)
    return matrices_and_rest({"matrices": averaged(matrices, rate), "rest": averaged(vectors, other)}, layout)
