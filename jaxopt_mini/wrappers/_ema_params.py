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
from jaxopt_mini.check import check_fraction
from jaxopt_mini.tree import copied, evaluate, increment, total_weight, widen
from jaxopt_mini.wrappers._conditional import per_update


class EmaParamsState(NamedTuple):
    """State of :func:`ema_params`."""

    count: jax.Array  # int32[]: completed steps
    average: Params  # of the parameters after each step, at least float32; initially the parameters
    inner_state: OptState


def _averaged(state: EmaParamsState, params: Params) -> Params:
    """The average in the dtypes of the parameters; for masked leaves the parameter."""
    return jax.tree.map(lambda p, a: p if isinstance(a, MaskedNode) else a.astype(p.dtype), params, state.average)


states.EVALUATION[EmaParamsState] = _averaged


@per_update
def ema_params(inner: GradientTransformation, *, decay: ArrayLike = 0.999) -> GradientTransformationExtraArgs:
    """Keeps an exponential moving average of the parameters.

    Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992)::

        average <- average + (1 - decay) / (1 - decay^t) (p_t - average)

    The average is bias-corrected like Adam's moments: it starts at p_1, excludes the initial weights, and is close to
    the plain mean for the first 1 / (1 - decay) steps. With a constant learning rate it has an effect similar to
    learning-rate decay.

    Args:
      inner: a transformation.
      decay: decay of the average per step, in [0, 1); averages over about the last 1 / (1 - decay) steps.

    Returns:
      A transformation with an :class:`EmaParamsState`, with the state of ``inner``, 4 bytes, and 4 per parameter.
      Get the average from ``states.evaluation_params(state, params)``.

    Raises:
      ValueError: ``decay`` is out of range, or ``update`` is called without the parameters.

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
    inner = with_extra_args_support(inner)

    def init(params):
        average = evaluate(lambda tree: jax.tree.map(widen, tree), copied(params))
        return EmaParamsState(jnp.zeros((), jnp.int32), average, inner.init(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "ema_params")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = increment(state.count)
        share = (1 - decay) / total_weight(decay, count)
        average = jax.tree.map(
            lambda a, p: a + share.astype(a.dtype) * (p.astype(a.dtype) - a), state.average, apply_updates(params, new)
        )
        return new, EmaParamsState(count, average, inner_state)

    return transformation(init, update)
