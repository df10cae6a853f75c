"""Weight decay after the step: decays the updated parameters, where AdamW decays those before the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax import ScaleByScheduleState

from jaxopt_mini.base import (
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.tree import chosen_leaves, increment, widen, zeros_like


def decay_afterwards(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    skip: int = 0,
) -> GradientTransformationExtraArgs:
    """Subtracts ``lr weight_decay (p + u)`` for updates u; the last link of a chain.

    Args:
      learning_rate: the learning rate already applied to the updates, a number or a schedule.
      weight_decay: a number or a schedule.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      skip: number of initial steps without decay.

    Returns:
      A transformation with an ``optax.ScaleByScheduleState``.

    >>> tx = decay_afterwards(0.5, 0.1)
    >>> params = {"w": jnp.float32(2.0)}
    >>> updates, _ = tx.update({"w": jnp.float32(-1.0)}, tx.init(params), params)
    >>> print(updates["w"])
    -1.05
    """

    def init(params):
        zeros_like(params)  # rejects integers
        return ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        rate = schedule_value(learning_rate, state.count) * schedule_value(weight_decay, state.count)
        rate = jnp.where(state.count < skip, 0.0, rate)

        def decayed(u, p, decays):
            return (widen(u) - rate * (widen(p) + widen(u))).astype(u.dtype) if decays else u

        params = require_params(params, "weight decay")
        new = jax.tree.map(decayed, updates, params, chosen_leaves(mask, params))
        return new, ScaleByScheduleState(count=increment(state.count))

    return transformation(init, update)
