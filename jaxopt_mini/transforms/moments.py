"""Momentum as a decaying sum (``trace``) or as a moving average (``ema``)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import EmaState, TraceState

from jaxopt_mini.base import GradientTransformationExtraArgs, Updates, transformation
from jaxopt_mini.check import check_fraction
from jaxopt_mini.tree import average, bias_correction, cast_like, increment, widen, zeros_like


class DampedTraceState(NamedTuple):
    """State of a :func:`trace` with dampening."""

    count: jax.Array  # int32[]: completed steps
    trace: Updates  # like the parameters


def _accumulate(updates, memory, decay, weight):
    return jax.tree.map(lambda g, m: weight * widen(g) + decay * widen(m), updates, memory)


def trace(
    decay: ArrayLike,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    dampening: ArrayLike | None = None,
) -> GradientTransformationExtraArgs:
    """Momentum as a sum: ``m <- g + decay m``; the update is m.

    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964); with ``nesterov`` the update is
    ``g + decay m`` (Nesterov 1983). For an average see :func:`ema`.

    Args:
      decay: decay of the sum, in [0, 1).
      nesterov: use Nesterov momentum.
      accumulator_dtype: dtype that the sum is stored in; None uses each parameter's dtype.
      dampening: ``m <- (1 - dampening) g + decay m`` from the second step on, as in torch, whose first step is
        ``m <- g``; None disables it.

    Returns:
      A transformation with an ``optax.TraceState``; with dampening, a :class:`DampedTraceState`.

    Raises:
      ValueError: ``decay`` is not in [0, 1).

    >>> tx = trace(0.5)
    >>> state = tx.init({"w": jnp.float32(0.0)})
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": jnp.float32(1.0)}, state)
    >>> updates["w"].item()
    1.75
    """
    check_fraction(decay=decay)

    def init(params):
        memory = zeros_like(params, accumulator_dtype)
        if dampening is None:
            return TraceState(memory)
        return DampedTraceState(jnp.zeros((), jnp.int32), memory)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        weight = 1.0 if dampening is None else jnp.where(state.count == 0, 1.0, 1.0 - dampening)
        memory = _accumulate(updates, state.trace, decay, weight)
        new = _accumulate(updates, memory, decay, 1.0) if nesterov else memory
        stored = cast_like(memory, state.trace)
        if dampening is None:
            return cast_like(new, updates), TraceState(stored)
        return cast_like(new, updates), DampedTraceState(increment(state.count), stored)

    return transformation(init, update)


def ema(
    decay: ArrayLike,
    debias: bool = True,
    accumulator_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """Momentum as an average: ``m <- decay m + (1 - decay) g``.

    Args:
      decay: decay of the average, in [0, 1).
      debias: divide by ``1 - decay^t``, the sum of the weights; without it the first updates are small.
      accumulator_dtype: dtype that the average is stored in; None uses each parameter's dtype.
      nesterov: update with ``decay m + (1 - decay) g``.

    Returns:
      A transformation with an ``optax.EmaState``.

    Raises:
      ValueError: ``decay`` is not in [0, 1).

    >>> tx = ema(0.5, debias=False)
    >>> state = tx.init({"w": jnp.float32(0.0)})
    >>> for _ in range(3):
    ...     updates, state = tx.update({"w": jnp.float32(1.0)}, state)
    >>> updates["w"].item()
    0.875
    """
    check_fraction(decay=decay)

    def init(params):
        return EmaState(jnp.zeros((), jnp.int32), zeros_like(params, accumulator_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        memory = average(updates, state.ema, decay)
        new = average(updates, memory, decay) if nesterov else memory
        new = bias_correction(new, decay, count) if debias else new
        return cast_like(new, updates), EmaState(count, cast_like(memory, state.ema))

    return transformation(init, update)
