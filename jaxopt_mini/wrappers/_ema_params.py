"""EMA of the parameters: train with the latest weights, evaluate with their average."""

from __future__ import annotations

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
from jaxopt_mini.check import check_decay, check_fraction, check_steps
from jaxopt_mini.tree import at_most_max_count, copied, evaluate, increment, is_multiple, total_weight, widen
from jaxopt_mini.wrappers._conditional import per_update


class EmaParamsState(NamedTuple):
    """State of :func:`ema_params`."""

    count: jax.Array  # int32[]: completed steps
    weight: jax.Array  # float32[]: weight of the average in the evaluated parameters; 0 before the first snapshot
    average: Params  # of the snapshots, at least float32; initially the parameters
    inner_state: OptState


def _averaged(state: EmaParamsState, params: Params) -> Params:
    """The average, mixed with the parameters, in their dtypes; for masked leaves the parameter."""

    def one(p, average):
        if isinstance(average, MaskedNode):
            return p
        weight = state.weight.astype(average.dtype)
        return ((1 - weight) * p.astype(average.dtype) + weight * average).astype(p.dtype)

    return jax.tree.map(one, params, state.average)


states.EVALUATION[EmaParamsState] = _averaged


@per_update
def ema_params(
    inner: GradientTransformation,
    *,
    decay: ArrayLike = 0.999,
    start: int = 1,
    every: int = 1,
    debias: bool = True,
    blend: ArrayLike = 1.0,
) -> GradientTransformationExtraArgs:
    """Keeps an exponential moving average of the parameters.

    Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992)::

        average <- average + (1 - decay) / (1 - decay^t) (p_t - average)

    The average is bias-corrected like Adam's moments: it starts at p_1, excludes the initial weights, and is close to
    the plain mean for the first 1 / (1 - decay) steps. With a constant learning rate it has an effect similar to
    learning-rate decay.

    The tail average of modded-nanogpt starts near the end of a run and is mixed with the last parameters:
    ``decay=1 - 1 / 150, start=2400, debias=False, blend=0.6``.

    Args:
      inner: a transformation.
      decay: decay of the average per snapshot, in [0, 1); averages over about the last 1 / (1 - decay) snapshots.
      start: step of the first snapshot, counted from 1. Before it, evaluation uses the parameters.
      every: later snapshots are taken at steps 1, 1 + ``every``, 1 + 2 ``every``, ...
      debias: correct the bias as above; False gives every later snapshot the weight 1 - ``decay``.
      blend: weight of the average in the evaluated parameters, in [0, 1]; the rest is that of the latest parameters.

    Returns:
      A transformation with an :class:`EmaParamsState`, with the state of ``inner``, 8 bytes, and 4 per parameter.
      Get the average from ``states.evaluation_params(state, params)``.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without the parameters.

    >>> from jaxopt_mini import apply_updates, sgd
    >>> tx = ema_params(sgd(1.0), decay=0.5)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": jnp.float32(-3.0)}, state, params)
    ...     params = apply_updates(params, updates)
    ...     print(params["w"], state.average["w"])
    3.0 3.0
    6.0 5.0
    """
    check_fraction(decay=decay)
    check_decay(blend=blend)
    check_steps(start=start, every=every)
    inner = with_extra_args_support(inner)

    def init(params):
        average = evaluate(lambda tree: jax.tree.map(widen, tree), copied(params))
        return EmaParamsState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), average, inner.init(params))

    def share(count):
        """The weight of the parameters after step ``count`` in the average."""
        snapshots = 1 + (count - 1) // at_most_max_count(every) - (start - 1) // every
        later = (1 - decay) / total_weight(decay, jnp.maximum(snapshots, 1)) if debias else 1 - decay
        taken = (count > start) & is_multiple(count - 1, every)
        return jnp.where(count == start, 1.0, jnp.where(taken, later, 0.0))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "ema_params")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = increment(state.count)
        average = jax.tree.map(
            lambda a, p: a + share(count).astype(a.dtype) * (p.astype(a.dtype) - a),
            state.average,
            apply_updates(params, new),
        )
        weight = jnp.where(count < start, 0.0, jnp.asarray(blend, jnp.float32))
        return new, EmaParamsState(count, weight, average, inner_state)

    return transformation(init, update)
