"""EMA-Nesterov: the gradient is taken ahead, along a moving average of the steps."""

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
    ScalarOrSchedule,
    schedule_value,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.tree import at_most_max_count, increment, widen, zeros_like
from jaxopt_mini.wrappers._conditional import per_update


class EmaNesterovState(NamedTuple):
    """State of :func:`ema_nesterov`."""

    count: jax.Array  # int32[]: completed steps
    max_lr: jax.Array  # float32[]: largest learning rate so far
    ahead: jax.Array  # float32[]: how far the parameters are ahead of x, as a multiple of the average step
    average: Params  # of the steps of x, at least float32
    inner_state: OptState


def _without_lookahead(state: EmaNesterovState, params: Params) -> Params:
    """The parameters x, before the lookahead; for masked leaves the parameter."""

    def one(y, average):
        if isinstance(average, MaskedNode):
            return y
        return (widen(y) - state.ahead.astype(average.dtype) * average).astype(y.dtype)

    return jax.tree.map(one, params, state.average)


states.EVALUATION[EmaNesterovState] = _without_lookahead


@per_update
def ema_nesterov(
    inner: GradientTransformation,
    *,
    step_size: ArrayLike = 0.6,
    decay: ArrayLike = 0.99,
    start: int = 500,
    stop: int | None = None,
    learning_rate: ScalarOrSchedule | None = None,
    peak_learning_rate: ArrayLike | None = None,
) -> GradientTransformationExtraArgs:
    """Takes the gradient, and the inner step, ahead of the parameters along a moving average of their steps.

    "EMA-Nesterov: Stabilizing Nesterov's Lookahead for Accelerated Deep Learning Optimization" (2026, arXiv
    2605.25395)::

        y = x + s m                             s = step_size lr / (largest lr)
        x' = y + inner(g at y)
        m <- decay m + (1 - decay) (x' - x)
        x <- x'

    The training parameters are y; evaluate x with ``states.evaluation_params(state, params)``. The average includes the
    lookahead itself, and all steps from the first one on. Weight decay inside ``inner`` acts on y.

    Departures: as in the code of modded-nanogpt, lr is the learning rate of the previous step; the paper has that of
    the same step.

    Args:
      inner: a complete optimizer.
      step_size: factor of the average in the lookahead; 0.3 to 0.6.
      decay: decay of the average per step, in [0, 1).
      start: completed steps before the first lookahead.
      stop: completed steps from which on there is no lookahead; None is never. modded-nanogpt stops 750 steps before
        the end.
      learning_rate: the learning rate of ``inner``, a number or a schedule, which scales the lookahead; None doesn't.
      peak_learning_rate: largest learning rate of the schedule; None is the largest so far.

    Returns:
      A transformation with an :class:`EmaNesterovState`, with the state of ``inner``, 12 bytes, and 4 per parameter.

    Raises:
      ValueError: a number is out of range.

    >>> from jaxopt_mini import apply_updates, sgd, states
    >>> tx = ema_nesterov(sgd(1.0), step_size=1.0, decay=0.5, start=1)
    >>> params = {"w": jnp.float32(0.0)}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": jnp.float32(-1.0)}, state, params)
    ...     params = apply_updates(params, updates)
    ...     print(states.evaluation_params(state, params)["w"], params["w"])
    1.0 1.5
    2.5 3.5
    """
    check_fraction(decay=decay)
    check_nonnegative(step_size=step_size, start=start, stop=stop)
    check_nonnegative(learning_rate=learning_rate, peak_learning_rate=peak_learning_rate)
    inner = with_extra_args_support(inner)

    def init(params):
        average = jax.tree.map(widen, zeros_like(params))
        zero = lambda: jnp.zeros((), jnp.float32)
        return EmaNesterovState(jnp.zeros((), jnp.int32), zero(), zero(), average, inner.init(params))

    def scale(state, count):
        """The multiple of the average after step ``count``, and the largest learning rate."""
        rate = 1.0 if learning_rate is None else schedule_value(learning_rate, state.count)
        max_lr = jnp.maximum(state.max_lr, rate)
        peak = max_lr if learning_rate is None or peak_learning_rate is None else jnp.asarray(peak_learning_rate)
        is_ahead = count >= at_most_max_count(start)
        is_ahead &= True if stop is None else count < at_most_max_count(stop)
        return jnp.where(is_ahead, step_size * rate / jnp.where(peak > 0, peak, 1), 0), max_lr

    def update(updates, state, params=None, **extra_args):
        new, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        count = increment(state.count)
        ahead, max_lr = scale(state, count)

        def advance(average, step):
            moved = widen(step) + state.ahead.astype(average.dtype) * average
            return decay * average + (1 - decay) * moved

        average = jax.tree.map(advance, state.average, new)
        new = jax.tree.map(lambda u, m: (widen(u) + ahead.astype(m.dtype) * m).astype(u.dtype), new, average)
        return new, EmaNesterovState(count, max_lr, ahead, average, inner_state)

    return transformation(init, update)
