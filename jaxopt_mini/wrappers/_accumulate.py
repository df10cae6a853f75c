"""Gradient accumulation: one inner step per several micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_at_least_one
from jaxopt_mini.tree import at_most_max_count, cast_like, select, widen, zeros_like
from jaxopt_mini.wrappers._conditional import MICRO_BATCHED, Conditional, conditional_updates, update_if
from jaxopt_mini.wrappers._inner_updates import counts_inner_updates


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`."""

    count: jax.Array  # int32[]: number of gradients in the sum, 0 to steps - 1
    total: Updates  # their sum, at least float32
    inner_state: OptState


class ScheduledAccumulateState(NamedTuple):
    """State of :func:`accumulate` with a schedule of steps or with ``skip``."""

    count: jax.Array  # int32[]: number of gradients in the sum
    updates: jax.Array  # int32[]: number of inner updates so far
    total: Updates  # the sum of the gradients, at least float32
    inner_state: OptState


MICRO_BATCHED.update((AccumulateState, ScheduledAccumulateState))

Steps: TypeAlias = Callable[[jax.Array], ArrayLike]
Skip: TypeAlias = Callable[[Updates, jax.Array, Params | None], tuple[jax.Array, Any]]


def _inner_updates(calls: int, *, steps: int | Steps = 4, skip: Skip | None = None) -> int:
    del skip
    if not callable(steps):
        check_at_least_one(steps=steps)
        return calls // steps
    updates = 0
    while (calls := calls - max(1, int(jnp.asarray(steps(jnp.int32(updates)))))) >= 0:
        updates += 1
    return updates


@counts_inner_updates(_inner_updates)
@conditional_updates
def accumulate(
    inner: GradientTransformation, *, steps: int | Steps = 4, skip: Skip | None = None
) -> GradientTransformationExtraArgs:
    """Averages gradients over ``steps`` calls, then steps once.

    In between, updates are zero and the inner optimizer doesn't run, whereas ``optax.MultiSteps`` runs it in every call
    and drops the result. Equal to one batch ``steps`` times as large if each loss is a mean over equally many examples.
    Schedules of ``inner`` count its own steps, one in ``steps`` calls (see :func:`inner_updates`). Its extra args
    (``value``, ``loss_fn``) are those of the last call. At the end of a run, :func:`flush` uses what is collected.

    Args:
      inner: a transformation, including all that must see the whole batch (such as clipping).
      steps: calls per inner step, at least 1; or a schedule of the number of inner steps so far, as in
        ``optax.MultiSteps``.
      skip: function ``(updates, inner steps so far, params) -> (bool[], anything)``: whether to ignore this call's
        gradient, such as ``optax.skip_not_finite`` or ``optax.skip_large_updates``; None ignores none.

    Returns:
      A transformation with an :class:`AccumulateState`, or with a schedule or ``skip`` a
      :class:`ScheduledAccumulateState`, with the state of ``inner`` and 4 bytes per parameter.

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
    if not callable(steps) and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps={steps} is out of range: give an integer >= 1, or a schedule")
    inner = with_extra_args_support(inner)
    scheduled = callable(steps) or skip is not None

    def init(params):
        total = jax.tree.map(widen, zeros_like(params))
        count, inner_state = jnp.zeros((), jnp.int32), inner.init(params)
        if scheduled:
            return ScheduledAccumulateState(count, jnp.zeros((), jnp.int32), total, inner_state)
        return AccumulateState(count, total, inner_state)

    def collect(updates, state, params):
        total = jax.tree.map(lambda old, grad: old + grad.astype(old.dtype), state.total, updates)
        count = state.count + 1
        if skip is not None:
            ignored, _ = skip(updates, state.updates, params)
            count, total = select(ignored, (state.count, state.total), (count, total))
        return count, total

    def update(updates, state, params=None, *, flush=False, **extra_args):
        if flush:
            count, total, needed = state.count, state.total, jnp.maximum(state.count, 1)
        else:
            count, total = collect(updates, state, params)
            needed = jnp.maximum(steps(state.updates), 1) if callable(steps) else steps
        full = count >= at_most_max_count(needed)
        mean = cast_like(jax.tree.map(lambda leaf: leaf / jnp.asarray(needed, leaf.dtype), total), updates)
        new, inner_state = update_if(full, inner, mean, state.inner_state, params, extra_args)
        total = jax.tree.map(lambda leaf: jnp.where(full, jnp.zeros_like(leaf), leaf), total)
        new_state = state._replace(count=jnp.where(full, 0, count), total=total, inner_state=inner_state)
        return new, new_state._replace(updates=state.updates + full.astype(jnp.int32)) if scheduled else new_state

    return transformation(init, update)


def flush(tx: GradientTransformation, state: OptState, params: Params, **extra_args: Any) -> tuple[Updates, OptState]:
    """Steps with the mean of the gradients that :func:`accumulate` has collected so far, fewer than a step needs.

    Args:
      tx: an optimizer in :func:`accumulate`, also with other wrappers around it.
      state: its state.
      params: the parameters.
      **extra_args: those of ``tx.update``.

    Returns:
      Updates and the new state; zero updates and the same state if no gradient has been collected.

    Raises:
      ValueError: ``tx`` is not an optimizer in ``accumulate``, so that a call would update parts of it with zeros.

    >>> from jaxopt_mini import sgd
    >>> tx, params = accumulate(sgd(1.0), steps=4), {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for grad in (1.0, 3.0):
    ...     _, state = tx.update({"w": jnp.float32(grad)}, state)
    >>> updates, state = flush(tx, state, params)
    >>> print(updates["w"], state.count)
    -2.0 0
    """
    outermost: Any = state
    while hasattr(outermost, "inner_state") and type(outermost) not in MICRO_BATCHED:
        outermost = outermost.inner_state
    if not isinstance(tx, Conditional) or not isinstance(outermost, AccumulateState | ScheduledAccumulateState):
        raise ValueError("flush needs an optimizer in accumulate: put accumulate(...) around the whole optimizer")
    count = jnp.maximum(outermost.count, 1)
    mean = cast_like(jax.tree.map(lambda total: total / count.astype(total.dtype), outermost.total), params)
    return tx.update(mean, state, params, flush=True, **extra_args)  # wrappers in between look at the mean
