"""GPA: AdamW whose iterates are averaged, with the gradient taken between average and iterate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import ScheduleFreeState

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_decay, check_nonnegative
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import cast_like, copied, increment, scalar_dtype, widen
from jaxopt_mini.wrappers._schedule_free import weight_of_step


def gpa_adamw(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    train_interp: ArrayLike = 0.7,
    eval_interp: ArrayLike | None = 0.9967,
    r: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    decay_at_y: bool = False,
) -> GradientTransformation:
    """AdamW around an average of its iterates, without outer steps.

    Defazio et al., "Smoothing DiLoCo with Primal Averaging for Faster Training of LLMs" (2025, arXiv 2512.17131).
    Descends from :func:`schedule_free_adamw`, but keeps Adam's first moment::

        z <- z - lr (adam(g) + weight_decay z)
        x <- eval_interp x + (1 - eval_interp) z
        y <- train_interp x + (1 - train_interp) z

    y are the parameters, at which the gradient is taken. ``eval_interp`` about mu^(1/H) replaces DiLoCo with momentum
    mu and H inner steps. With ``eval_interp=None`` the weight of z is that of :func:`schedule_free_adamw`, t^r
    lr^weight_lr_power over the sum of these. Evaluate with x: ``states.evaluation_params(state, params)``. As in the
    official code only y and z are stored, and the decay of z moves x by lr weight_decay z (1 - train_interp) /
    train_interp.

    Args:
      learning_rate: a number or a schedule.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      train_interp: weight of x in y, in (0, 1].
      eval_interp: decay of the average x, in [0, 1]; None averages as schedule-free optimizers do.
      r: power of the step in the weights of that average.
      weight_lr_power: power of the learning rate in them.
      decay_at_y: decay y, not z.

    Returns:
      A transformation with an ``optax.contrib.ScheduleFreeState``; 12 bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range.

    >>> tx = gpa_adamw(0.5, train_interp=0.5, eval_interp=0.5)
    >>> params = jnp.float32(1.0)
    >>> updates, state = tx.update(jnp.float32(3.0), tx.init(params), params)
    >>> print(params + updates)  # z is 0.5, x is 0.75
    0.625
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, r=r, weight_lr_power=weight_lr_power)
    check_decay(train_interp=train_interp, eval_interp=eval_interp)
    adam = scale_by_adam(b1, b2, eps)

    def init(params):
        dtype = scalar_dtype(params)
        zero = lambda: jnp.zeros((), dtype)
        start = jnp.array(train_interp, dtype)
        return ScheduleFreeState(start, zero(), jnp.ones((), jnp.int32), zero(), adam.init(params), copied(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "gpa_adamw")
        count = state.step_count - 1
        rate, decay = schedule_value(learning_rate, count), schedule_value(weight_decay, count)
        wide = jax.tree.map(widen, updates)
        d, adam_state = adam.update(wide, state.base_optimizer_state)
        c, total, max_lr = weight_of_step(state, rate, r, weight_lr_power)
        c = c if eval_interp is None else 1 - eval_interp

        def decayed(tree):
            link = add_decayed_weights(-1 * rate * decay, mask)
            return link.update(jax.tree.map(widen, tree), link.init(tree), tree)[0]

        y = decayed(params) if decay_at_y else jax.tree.map(widen, params)
        z = jax.tree.map(widen, state.z) if decay_at_y else decayed(state.z)

        def step(y, z, d, old):
            return (1 - c) * y + c * z + rate * (train_interp * (1 - c) - 1) * d - widen(old)

        new = jax.tree.map(step, y, z, d, params)
        z = jax.tree.map(lambda z, d: z - rate * d, z, d)
        total, max_lr = (number.astype(state.b1.dtype) for number in (total, max_lr))
        state = ScheduleFreeState(
            state.b1, total, increment(state.step_count), max_lr, adam_state, cast_like(z, state.z)
        )
        return cast_like(new, updates), state

    return transformation(init, update)
