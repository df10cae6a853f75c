"""Gradient accumulation: one inner step per several micro-batches."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Updates,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_at_least_one
from jaxopt_mini.tree import cast_like, is_multiple, widen, zeros_like
from jaxopt_mini.wrappers._conditional import MICRO_BATCHED, conditional_updates, update_if
from jaxopt_mini.wrappers._inner_updates import counts_inner_updates


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`."""

    count: jax.Array  # int32[]: number of gradients in the sum, 0 to steps - 1
    total: Updates  # their sum, at least float32
    inner_state: OptState


MICRO_BATCHED.add(AccumulateState)


def _inner_updates(calls: int, *, steps: int = 4) -> int:
    check_at_least_one(steps=steps)
    return calls // steps


@counts_inner_updates(_inner_updates)
@conditional_updates
def accumulate(inner: GradientTransformation, *, steps: int = 4) -> GradientTransformationExtraArgs:
    """Averages gradients over ``steps`` calls, then steps once.

    In between, updates are zero and the inner optimizer doesn't run, whereas ``optax.MultiSteps`` runs it in every call
    and drops the result. Equal to one batch ``steps`` times as large if each loss is a mean over equally many examples.
    Schedules of ``inner`` count its own steps, one in ``steps`` calls (see :func:`inner_updates`). Its extra args
    (``value``, ``loss_fn``) are those of the last call.

    Args:
      inner: a transformation, including all that must see the whole batch (such as clipping).
      steps: calls per inner step, at least 1.

    Returns:
      A transformation with an :class:`AccumulateState`, with the state of ``inner`` and 4 bytes per parameter.

    Raises:
      ValueError: ``steps`` is not a positive integer.

    >>> from jaxopt_mini import sgd
    >>> tx = accumulate(sgd(1.0), steps=2)
    >>> state = tx.init({"w": jnp.float32(0.0)})
    >>> for grad in (1.0, 3.0):
    ...     updates, state = tx.update({"w": jnp.float32(grad)}, state)
    ...     print(updates["w"])
    0.0
    -2.0
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps} is out of range: give an integer >= 1")
    inner = with_extra_args_support(inner)

    def init(params):
        total = jax.tree.map(widen, zeros_like(params))
        return AccumulateState(jnp.zeros((), jnp.int32), total, inner.init(params))

    def update(updates, state, params=None, **extra_args):
        total = jax.tree.map(lambda old, grad: old + grad.astype(old.dtype), state.total, updates)
        full = is_multiple(state.count + 1, steps)
        mean = cast_like(jax.tree.map(lambda leaf: leaf / float(steps), total), updates)
        new, inner_state = update_if(full, inner, mean, state.inner_state, params, extra_args)
        total = jax.tree.map(lambda leaf: jnp.where(full, jnp.zeros_like(leaf), leaf), total)
        return new, AccumulateState(jnp.where(full, 0, state.count + 1), total, inner_state)

    return transformation(init, update)
