"""EMA of the parameters: train with the last weights, evaluate with their average."""

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
    with_extra_args_support,
)
from jaxopt_mini.check import check_fraction
from jaxopt_mini.tree import increment, widen


class EmaParamsState(NamedTuple):
    """State of :func:`ema_params`."""

    count: jax.Array  # int32[]: steps done
    average: Params  # of the parameters after each of them, at least float32; before the first, the parameters
    inner_state: OptState


def _averaged(state: EmaParamsState, params: Params) -> Params:
    """The average, in the dtypes of the parameters; a leaf that a mask has taken out is its parameter."""
    return jax.tree.map(lambda p, a: p if isinstance(a, MaskedNode) else a.astype(p.dtype), params, state.average)


states.EVALUATION[EmaParamsState] = _averaged


def ema_params(inner: GradientTransformation, *, decay: ArrayLike = 0.999) -> GradientTransformationExtraArgs:
    """Leaves the training as it is and averages its parameters on the side.

    Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992)::

        average <- average + (1 - decay) / (1 - decay^t) (p_t - average)

    This is the moving average divided by the weight that its t terms sum to, as Adam's moments are: it begins at p_1,
    the initial weights aren't in it, and for the first 1 / (1 - decay) steps it is close to the plain mean. At a
    constant learning rate it does what a decay of the rate would.

    Args:
      inner: a transformation.
      decay: what remains of the average at each step, in [0, 1); averages over the last 1 / (1 - decay) steps.

    Returns:
      A transformation with an :class:`EmaParamsState`: the state of ``inner``, 4 bytes, and 4 a parameter. The average
      is ``states.evaluation_params(state, params)``.

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
        average = jax.tree.map(lambda leaf: widen(jnp.copy(leaf)), params)  # a buffer of its own: both may be donated
        return EmaParamsState(jnp.zeros((), jnp.int32), average, inner.init(params))

    def update(updates, state, params=None, **extra):
        params = require_params(params, "ema_params")
        new, inner_state = inner.update(updates, state.inner_state, params, **extra)
        count = increment(state.count)
        share = (1 - decay) / (1 - decay ** count.astype(jnp.float32))
        average = jax.tree.map(
            lambda a, p: a + share.astype(a.dtype) * (p.astype(a.dtype) - a), state.average, apply_updates(params, new)
        )
        return new, EmaParamsState(count, average, inner_state)

    return GradientTransformationExtraArgs(init, update)
