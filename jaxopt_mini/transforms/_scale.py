"""Multiply updates by a number or a schedule; the last link of most optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByScheduleState

from jaxopt_mini.base import (
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Schedule,
    Updates,
    identity,
    stateless,
    transformation,
)
from jaxopt_mini.tree import increment, times


def scheduled(
    function: Callable[[Updates, Params | None, Any], Updates], schedule: Callable[[jax.Array], Any]
) -> GradientTransformationExtraArgs:
    """Creates a transformation from ``function(updates, params, value)``, where the value follows a schedule.

    Args:
      function: returns the new updates.
      schedule: int32[] -> float32[], or a tuple of such values; the first step has count 0.

    Returns:
      A transformation with an ``optax.ScaleByScheduleState``.
    """

    def init(params):
        del params
        return ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        updates = function(updates, params, schedule(state.count))
        return updates, ScaleByScheduleState(count=increment(state.count))

    return transformation(init, update)


def _scaled(updates, factor):
    return jax.tree.map(lambda leaf: times(leaf, factor), updates)


def scale(step_size: ArrayLike) -> GradientTransformationExtraArgs:
    """Multiplies updates by ``step_size``, in float32, rounded once.

    Optax rounds the factor to the dtype of each leaf first: for bfloat16 updates 3e-4 becomes 2.995e-4.

    Args:
      step_size: the factor; may be traced.

    Returns:
      A transformation without state.

    >>> updates, _ = scale(0.5).update({"w": jnp.float32(3.0)}, scale(0.5).init({}))
    >>> updates["w"].item()
    1.5
    """
    return stateless(lambda updates, params: _scaled(updates, step_size))


def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformationExtraArgs:
    """Multiplies updates by ``step_size_fn(count)``, see :func:`scale`; the first step has count 0.

    Args:
      step_size_fn: int32[] -> float32[].

    Returns:
      A transformation with an ``optax.ScaleByScheduleState``.
    """
    return scheduled(lambda updates, params, value: _scaled(updates, value), step_size_fn)


def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule | None = None, *, flip_sign: bool = True
) -> GradientTransformationExtraArgs:
    """Multiplies updates by minus the learning rate, which turns a direction of ascent into a descent step.

    Args:
      learning_rate: a number (may be traced) or a schedule of the step count; None leaves the updates unchanged, with
        their sign.
      flip_sign: False keeps the sign.

    Returns:
      :func:`scale` for a number, :func:`scale_by_schedule` for a schedule.
    """
    if learning_rate is None:
        return identity()
    sign = -1 if flip_sign else 1
    if callable(learning_rate):
        return scale_by_schedule(lambda count: sign * learning_rate(count))
    return scale(sign * learning_rate)
