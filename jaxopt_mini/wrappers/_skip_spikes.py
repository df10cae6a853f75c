"""Skip spikes: a step whose loss or gradient norm stands out from those before it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.tree import increment, norm
from jaxopt_mini.wrappers._conditional import update_if


class SkipSpikesState(NamedTuple):
    """State of :func:`skip_spikes`."""

    count: jax.Array  # int32[]: measurements taken
    skipped: jax.Array  # int32[]: steps skipped in all
    history: jax.Array  # float32[window]: the last measurements, in a ring
    inner_state: OptState


def _loss(updates, extra):
    if "value" not in extra:
        raise ValueError("skip_spikes(watch='loss') needs the loss: call update(updates, state, params, value=loss)")
    return jnp.asarray(extra["value"])


WATCHED: dict[str, Callable[..., jax.Array]] = {"norm": lambda updates, extra: norm(updates), "loss": _loss}


def _bound(history, count, sigmas):
    """Mean and ``sigmas`` sample deviations above it; no bound until half of the window is known."""
    window = len(history)
    known = jnp.arange(window) < count
    number = jnp.sum(known).astype(jnp.float32)
    mean = jnp.sum(history, where=known) / jnp.maximum(number, 1.0)
    variance = jnp.sum(jnp.square(history - mean), where=known) / jnp.maximum(number - 1, 1.0)
    return jnp.where(number < max(2, window // 2), jnp.inf, mean + sigmas * jnp.sqrt(variance))


def skip_spikes(
    inner: GradientTransformation, *, watch: str = "norm", sigmas: ArrayLike = 6.0, window: int = 128
) -> GradientTransformationExtraArgs:
    """Leaves out the steps whose measurement exceeds the mean of the last ``window`` ones by ``sigmas`` deviations.

    The rule of OLMo's optimizers. A spike enters the window like any other measurement, so that a lasting change is
    soon accepted; a NaN or an infinity is skipped always and enters nothing. To watch both, wrap twice.

    Args:
      inner: a transformation.
      watch: "norm", the global norm of the gradient, or "loss", the ``value`` that the step is told.
      sigmas: sample standard deviations above the mean.
      window: measurements remembered, at least 2; nothing finite is skipped until half of them are there.

    Returns:
      A transformation with a :class:`SkipSpikesState`: the state of ``inner`` and 4 bytes for each of the window.

    Raises:
      ValueError: an argument is out of range, or ``update`` isn't told the loss that it watches.

    >>> from jaxopt_mini import sgd
    >>> tx = skip_spikes(sgd(1.0), window=4)
    >>> state = tx.init({"w": jnp.float32(0.0)})
    >>> for grad in (1.0, 1.1, 0.9, 50.0, 1.0):
    ...     updates, state = tx.update({"w": jnp.float32(grad)}, state)
    ...     print(updates["w"])
    -1.0
    -1.1
    -0.9
    0.0
    -1.0
    """
    check_nonnegative(sigmas=sigmas)
    if watch not in WATCHED:
        raise ValueError(f"watch={watch!r} is unknown: give one of {', '.join(WATCHED)}")
    if not isinstance(window, int) or window < 2:
        raise ValueError(f"window={window} is no number of measurements: give an integer >= 2")
    inner = with_extra_args_support(inner)

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return SkipSpikesState(zero, jnp.copy(zero), jnp.zeros(window, jnp.float32), inner.init(params))

    def update(updates, state, params=None, **extra):
        now = WATCHED[watch](updates, extra).astype(jnp.float32)
        finite = jnp.isfinite(now)
        take = finite & (now <= _bound(state.history, state.count, sigmas))
        new, inner_state = update_if(take, inner, updates, state.inner_state, params, extra)
        place = state.count % window
        history = state.history.at[place].set(jnp.where(finite, now, state.history[place]))
        count = jnp.where(finite, increment(state.count), state.count)
        skipped = jnp.where(take, state.skipped, increment(state.skipped))
        return new, SkipSpikesState(count, skipped, history, inner_state)

    return GradientTransformationExtraArgs(init, update)
