"""Lookahead: every few steps, slow weights move towards the fast weights of the inner optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import MaskedNode

from jaxopt_mini import states
from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    Updates,
    apply_updates,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative, check_steps
from jaxopt_mini.tree import cast_like, copied, difference, is_multiple, select, widen
from jaxopt_mini.wrappers._conditional import per_update


class LookaheadState(NamedTuple):
    """State of :func:`lookahead`."""

    fast_state: OptState
    steps_since_sync: jax.Array  # int32[], 0 to sync_period - 1
    slow: Params  # the weights at the last synchronization, like the parameters


def slow_params(state: Any, params: Params) -> Params:
    """The slow weights; for masked leaves the parameter."""
    return jax.tree.map(lambda p, s: p if isinstance(s, MaskedNode) else s, params, state.slow)


states.EVALUATION[LookaheadState] = slow_params


def next_sync(steps_since_sync: jax.Array, sync_period: int) -> tuple[jax.Array, jax.Array]:
    """Whether this step synchronizes (bool[]), and the number of steps since the last synchronization (int32[])."""
    is_due = is_multiple(steps_since_sync + 1, sync_period)
    return is_due, jnp.where(is_due, 0, steps_since_sync + 1)


def updates_to(slow: Params, params: Params, updates: Updates) -> Updates:
    """The updates that lead from ``params`` to the slow weights, in the dtypes of ``updates``."""
    return cast_like(difference(slow, params), updates)


def _between(slow: jax.Array, fast: jax.Array, share: ArrayLike) -> jax.Array:
    start = widen(slow)
    return (start + share * (widen(fast) - start)).astype(slow.dtype)


@per_update
def lookahead(
    inner: GradientTransformation,
    sync_period: int = 5,
    slow_step_size: ArrayLike = 0.5,
    reset_state: bool = False,
) -> GradientTransformationExtraArgs:
    """Slow weights that follow the fast ones every few steps.

    Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back" (2019, arXiv 1907.08610)::

        every k steps:  slow <- slow + slow_step_size (p - slow);   p <- slow

    Departures: ``optax.lookahead`` takes and returns pairs of fast and slow parameters. Here the slow ones are in the
    state, so that it can be used like any other optimizer. The numbers are the same.

    Args:
      inner: the fast optimizer.
      sync_period: steps between synchronizations, at least 1.
      slow_step_size: step size of the slow weights, in [0, 1].
      reset_state: whether to reinitialize the inner state at each synchronization.

    Returns:
      A transformation with a :class:`LookaheadState`, with the state of ``inner``, 4 bytes and the slow weights.
      Evaluate with them: ``states.evaluation_params(state, params)``.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import apply_updates, sgd
    >>> tx = lookahead(sgd(1.0), sync_period=2)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update({"w": jnp.float32(-1.0)}, state, params)
    ...     params = apply_updates(params, updates)
    ...     print(params["w"])
    1.0
    1.0
    2.0
    2.0
    """
    check_nonnegative(slow_step_size=slow_step_size)
    check_steps(sync_period=sync_period)
    inner = with_extra_args_support(inner)

    def init(params):
        return LookaheadState(inner.init(params), jnp.zeros((), jnp.int32), copied(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "lookahead")
        new, fast_state = inner.update(updates, state.fast_state, params, **extra_args)
        is_due, count = next_sync(state.steps_since_sync, sync_period)
        slow = jax.tree.map(lambda s, f: _between(s, f, slow_step_size), state.slow, apply_updates(params, new))
        if reset_state:
            fast_state = select(is_due, inner.init(slow), fast_state)
        new = select(is_due, updates_to(slow, params, new), new)
        return new, LookaheadState(fast_state, count, select(is_due, slow, state.slow))

    return transformation(init, update)
