"""Schedule-Free+: averaged iterates, a Polyak step size and a corrected weight decay."""

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
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import cast_like, copied, increment, inner, norm, scalar_dtype, widen


class ScheduleFreePlusState(NamedTuple):
    """State of :func:`schedule_free_plus`."""

    count: jax.Array  # int32[]: completed steps
    b1: jax.Array  # float32[]: weight of the average in the present parameters
    max_lr: jax.Array  # float32[]: largest step size so far
    weight_sum: jax.Array  # float32[]
    step_size: jax.Array  # float32[]: of the last step
    adam: Any  # Adam's moments
    z: Updates  # like the parameters

    def evaluation_params(self, params: Params) -> Params:
        """The average x."""

        def average(y, z):
            return ((widen(y) - (1 - self.b1) * widen(z)) / self.b1).astype(y.dtype)

        return jax.tree.map(average, params, self.z)


def schedule_free_plus(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    sf_b1: ArrayLike = 0.9,
    sf_b1_max: ArrayLike = 0.965,
    sf_b1_steps: int | jax.Array = 0,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    average_from: int | jax.Array = 0,
    r: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
) -> GradientTransformation:
    """Schedule-free AdamW with a step size from the loss.

    Defazio, "Schedule-Free+" (2026, github.com/facebookresearch/schedule_free). Descends from
    :func:`schedule_free_adamw`. The whole tree has one step size s; f is the loss at y, passed to ``update`` as
    ``value``::

        s = lr max(0, f + b <g, z - x>) / (|g|_1 sqrt(pi / 2))
        z <- z - s^2 weight_decay y - s adam(g)
        x <- (1 - c) x + c z
        y <- (1 - b) z + b x

    b is ``sf_b1``, or rises from it to ``sf_b1_max``; c is the weight of the step, t^r times a power of the largest s
    so far, over the sum of all weights. Evaluate with x: ``states.evaluation_params(state, params)``. The decay is
    multiplied by s twice, so that 20 to 50 are sensible.

    Departures: |g|_1 is that of the step; an average of it (``polyak_beta``) is left out, since the official code
    corrects its bias twice.

    Args:
      learning_rate: factor of the step size, a number or a schedule.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      sf_b1: weight b of the average in y, in (0, 1).
      sf_b1_max: the last b, in (0, 1).
      sf_b1_steps: number of steps from one to the other; 0 keeps ``sf_b1``.
      eps: added outside Adam's root.
      weight_decay: a number or a schedule, times the square of the step size.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      average_from: number of steps during which x is z; 1 to 2 times a warm-up of the learning rate.
      r: power of the step in its weight; 0 or 2.
      weight_lr_power: power of the step size in its weight.

    Returns:
      A transformation with a :class:`ScheduleFreePlusState`; 12 bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without ``value``.

    >>> tx, params = schedule_free_plus(), jnp.array([2.0, -1.0])
    >>> state = tx.init(params)
    >>> for _ in range(20):
    ...     value, grads = jnp.sum(params**2) / 2, params
    ...     updates, state = tx.update(grads, state, params, value=value)
    ...     params = params + updates
    >>> bool(jnp.sum(params**2) < 0.5)
    True
    """
    check_fraction(b1=b1, b2=b2, sf_b1=sf_b1, sf_b1_max=sf_b1_max)
    check_nonnegative(learning_rate=learning_rate, eps=eps, weight_decay=weight_decay, sf_b1_steps=sf_b1_steps)
    check_nonnegative(average_from=average_from, r=r, weight_lr_power=weight_lr_power)
    adam = scale_by_adam(b1, b2, eps)

    def share(count):
        """The weight b of the average in step ``count``, from 0."""
        progress = jnp.minimum(count / jnp.maximum(jnp.float32(sf_b1_steps), 1.0), 1.0)
        progress = jnp.where(jnp.float32(sf_b1_steps) > 0, progress, 0.0)
        return -jnp.expm1((1 - progress) * jnp.log1p(-1 * sf_b1) + progress * jnp.log1p(-1 * sf_b1_max))

    def init(params):
        dtype = scalar_dtype(params)
        b, largest = share(jnp.float32(0)).astype(dtype), jnp.array(eps, dtype)
        zeros = (jnp.zeros((), dtype) for _ in range(2))
        return ScheduleFreePlusState(
            jnp.zeros((), jnp.int32), b, largest, *zeros, adam=adam.init(params), z=copied(params)
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = require_params(params, "schedule_free_plus")
        if value is None:
            raise ValueError("schedule_free_plus needs the loss: call update(updates, state, params, value=loss)")
        count, b = state.count.astype(jnp.float32), share(state.count.astype(jnp.float32))
        z, y = (jax.tree.map(widen, tree) for tree in (state.z, params))
        x = jax.tree.map(lambda y, z: (y - (1 - state.b1) * z) / state.b1, y, z)
        size = norm(updates, ord=1) * jnp.sqrt(jnp.pi / 2)
        gap = value + b * inner(updates, jax.tree.map(jnp.subtract, z, x))
        step = schedule_value(learning_rate, state.count) * jnp.maximum(gap, 0.0) / jnp.where(size > 0, size, jnp.inf)
        max_lr = jnp.maximum(state.max_lr, step)
        weight = jnp.where(count < average_from, 0.0, (count + 1) ** r * max_lr**weight_lr_power)
        total = state.weight_sum + weight
        c = jnp.where(count < average_from, 1.0, weight / jnp.where(total > 0, total, 1.0))
        d, adam_state = adam.update(jax.tree.map(widen, updates), state.adam)
        decay = add_decayed_weights(step * schedule_value(weight_decay, state.count), mask)
        d, _ = decay.update(d, decay.init(params), params)
        z = jax.tree.map(lambda z, d: z - step * d, z, d)
        new = jax.tree.map(lambda x, z, y: (1 - b) * z + b * ((1 - c) * x + c * z) - y, x, z, y)
        numbers = (jnp.asarray(number, state.b1.dtype) for number in (b, max_lr, total, step))
        z = cast_like(z, state.z)
        return cast_like(new, updates), ScheduleFreePlusState(increment(state.count), *numbers, adam=adam_state, z=z)

    return transformation(init, update)
