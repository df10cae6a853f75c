"""Means of snapshots of the parameters: latest weight averaging, windows, stochastic weight averaging."""

from __future__ import annotations

import functools
from numbers import Real
from typing import NamedTuple

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
    apply_updates,
    require_params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative, check_steps
from jaxopt_mini.tree import at_most_max_count, copied, evaluate, increment, is_multiple, widen
from jaxopt_mini.wrappers._conditional import per_update


class AverageParamsState(NamedTuple):
    """State of :func:`average_params`."""

    count: jax.Array  # int32[]: completed steps
    taken: jax.Array  # int32[]: snapshots so far
    snapshots: tuple[Params, ...]  # the latest ones, in no order; without ``rolling`` the mean of the window
    inner_state: OptState


def _mean(state: AverageParamsState, params: Params) -> Params:
    """The mean of the snapshots once there are enough; until then, and for masked leaves, the parameter."""
    is_full = state.taken >= len(state.snapshots)

    def one(p, *snapshots):
        if isinstance(snapshots[0], MaskedNode):
            return p
        total = functools.reduce(jnp.add, map(widen, snapshots))
        return jnp.where(is_full, (total / len(snapshots)).astype(p.dtype), p)

    return jax.tree.map(one, params, *state.snapshots)


states.EVALUATION[AverageParamsState] = _mean


@per_update
def average_params(
    inner: GradientTransformation,
    *,
    window: int | None = 5,
    every: int = 1,
    start: int = 1,
    rolling: bool = True,
    power: ArrayLike = 0.0,
) -> GradientTransformationExtraArgs:
    """Keeps the plain mean of snapshots of the parameters.

    Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging" (2022,
    arXiv 2209.14981). At steps ``start``, ``start`` + ``every``, ``start`` + 2 ``every``, ... the parameters enter a
    queue of the last ``window`` snapshots, and evaluation uses the mean of the queue; until it is full, the parameters.
    AlgoPerf's LAWA submission does the same.

    With ``rolling=False`` there is no queue but a running mean, which starts over after ``window`` snapshots, and with
    ``window=None`` never does: stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407). With ``power`` it
    is the polynomial-decay average that :func:`dog` needs, ``window=None, power=8.0`` (Shamir, Zhang, "Stochastic
    Gradient Descent for Non-smooth Optimization" 2013, arXiv 1212.1824)::

        average <- average + (1 + power) / (k + power) (p - average)          k: number of the snapshot, from 1

    Args:
      inner: a transformation.
      window: number of snapshots in the mean; None is all of them.
      every: steps from one snapshot to the next.
      start: step of the first snapshot, counted from 1.
      rolling: keep the last ``window`` snapshots; False keeps only their mean, with one copy of the parameters.
      power: weights of the snapshots grow with about this power of their number; only without a queue.

    Returns:
      A transformation with an :class:`AverageParamsState`, with the state of ``inner``, 8 bytes, and per parameter
      ``window`` copies, or 4 bytes without a queue. Get the mean from ``states.evaluation_params(state, params)``.

    Raises:
      ValueError: a number is out of range, a queue has a ``power``, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import apply_updates, sgd, states
    >>> tx = average_params(sgd(1.0), window=2)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": jnp.float32(-2.0)}, state, params)
    ...     params = apply_updates(params, updates)
    ...     print(params["w"], states.evaluation_params(state, params)["w"])
    2.0 2.0
    4.0 3.0
    6.0 5.0
    """
    check_steps(every=every, start=start, **({} if window is None else {"window": window}))
    check_nonnegative(power=power)
    inner = with_extra_args_support(inner)
    queue = window if rolling and window is not None else 1
    if queue > 1 and not (isinstance(power, Real) and power == 0):
        raise ValueError(f"power={power} needs a running mean: give rolling=False or window=None")
    period = None if window is None else at_most_max_count(window)

    def init(params):
        tree = params if queue > 1 else evaluate(lambda tree: jax.tree.map(widen, tree), params)
        zero = lambda: jnp.zeros((), jnp.int32)
        return AverageParamsState(zero(), zero(), tuple(copied(tree) for _ in range(queue)), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "average_params")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = increment(state.count)
        take = (count >= start) & is_multiple(count - start, every)
        latest = apply_updates(params, new)
        position = state.taken if period is None else state.taken % period

        def queued(slot, snapshot):
            return jax.tree.map(lambda old, p: jnp.where(take & (position == slot), p, old), snapshot, latest)

        def averaged(mean):
            share = jnp.where(take, (1 + power) / (position.astype(jnp.float32) + 1 + power), 0)
            return jax.tree.map(lambda a, p: a + share.astype(a.dtype) * (p.astype(a.dtype) - a), mean, latest)

        if queue == 1:
            snapshots = (averaged(*state.snapshots),)
        else:
            snapshots = tuple(queued(slot, snapshot) for slot, snapshot in enumerate(state.snapshots))
        return new, AverageParamsState(count, state.taken + take.astype(jnp.int32), snapshots, inner_state)

    return transformation(init, update)
