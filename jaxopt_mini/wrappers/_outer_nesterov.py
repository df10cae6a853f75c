"""Outer Nesterov momentum: every few steps, a momentum step on the total change of these steps."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini import states
from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    apply_updates,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_fraction, check_nonnegative, check_steps
from jaxopt_mini.tree import copied, difference, select, widen, zeros_like
from jaxopt_mini.wrappers._conditional import per_update
from jaxopt_mini.wrappers._lookahead import next_sync, slow_params, updates_to


class OuterNesterovState(NamedTuple):
    """State of :func:`outer_nesterov`."""

    inner_state: OptState
    steps_since_sync: jax.Array  # int32[], 0 to sync_period - 1
    slow: Params  # the parameters at the last synchronization
    trace: Params  # the momentum of the outer optimizer, at least float32


states.EVALUATION[OuterNesterovState] = slow_params


@per_update
def outer_nesterov(
    inner: GradientTransformation,
    *,
    sync_period: int = 30,
    outer_learning_rate: ArrayLike = 0.7,
    outer_momentum: ArrayLike = 0.5,
) -> GradientTransformationExtraArgs:
    """Nesterov momentum over rounds of several steps: DiLoCo with a single worker.

    Douillard et al., "DiLoCo" (2023, arXiv 2311.08105); around Muon, Thérien et al., "MuLoCo" (2025, arXiv
    2505.23725)::

        every sync_period steps:
        d = slow - p                                                       the outer gradient
        m <- outer_momentum m + d
        slow <- slow - outer_learning_rate (d + outer_momentum m)
        p <- slow

    The state of ``inner`` continues through the outer steps. Without momentum it is :func:`lookahead`.

    The defaults are those of modded-nanogpt's MuLoCo; DiLoCo uses 0.7, 0.9 and 500 steps, AlgoPerf's DiLoCo with one
    worker 0.3, 0.77 and 75. DiLoCo evaluates the slow parameters, MuLoCo the fast ones.

    Departures: modded-nanogpt stores ``outer_learning_rate`` m; the steps are the same.

    Args:
      inner: the optimizer of the steps between synchronizations.
      sync_period: steps between synchronizations, at least 1.
      outer_learning_rate: learning rate of the outer optimizer.
      outer_momentum: its momentum, in [0, 1).

    Returns:
      A transformation with an :class:`OuterNesterovState`, with the state of ``inner``, 4 bytes, the slow parameters,
      and 4 bytes per parameter. Evaluate with the slow ones: ``states.evaluation_params(state, params)``.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import apply_updates, sgd
    >>> tx = outer_nesterov(sgd(1.0), sync_period=2, outer_learning_rate=0.5)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update({"w": jnp.float32(-1.0)}, state, params)
    ...     params = apply_updates(params, updates)
    ...     print(params["w"])
    1.0
    1.5
    2.5
    3.25
    """
    check_steps(sync_period=sync_period)
    check_nonnegative(outer_learning_rate=outer_learning_rate)
    check_fraction(outer_momentum=outer_momentum)
    inner = with_extra_args_support(inner)

    def init(params):
        trace = jax.tree.map(widen, zeros_like(params))
        return OuterNesterovState(inner.init(params), jnp.zeros((), jnp.int32), copied(params), trace)

    def stepped(slow, direction, trace):
        return (widen(slow) - outer_learning_rate * (direction + outer_momentum * trace)).astype(slow.dtype)

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "outer_nesterov")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        is_due, count = next_sync(state.steps_since_sync, sync_period)
        direction = difference(state.slow, apply_updates(params, new))
        trace = jax.tree.map(lambda m, d: outer_momentum * m + d, state.trace, direction)
        slow = jax.tree.map(stepped, state.slow, direction, trace)
        new = select(is_due, updates_to(slow, params, new), new)
        slow, trace = select(is_due, (slow, trace), (state.slow, state.trace))
        return new, OuterNesterovState(inner_state, count, slow, trace)

    return transformation(init, update)
