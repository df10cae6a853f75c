"""Skip spikes: a step whose loss or gradient norm is an outlier among the previous ones changes nothing."""

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
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.tree import increment, norm
from jaxopt_mini.wrappers._conditional import conditional_updates, update_if


class SkipSpikesState(NamedTuple):
    """State of :func:`skip_spikes`."""

    count: jax.Array  # int32[]: number of finite measurements
    skipped: jax.Array  # int32[]: skipped steps in total
    history: jax.Array  # float32[window]: the last measurements, a ring buffer
    inner_state: OptState


def _loss(updates, extra_args):
    if "value" not in extra_args:
        raise ValueError("skip_spikes(watch='loss') needs the loss: call update(updates, state, params, value=loss)")
    return jnp.asarray(extra_args["value"])


WATCHED: dict[str, Callable[..., jax.Array]] = {"norm": lambda updates, extra_args: norm(updates), "loss": _loss}


def _bound(history, count, sigmas):
    """The mean plus ``sigmas`` sample standard deviations; infinite until half of the window is filled."""
    window = len(history)
    filled = jnp.arange(window) < count
    number = jnp.sum(filled).astype(jnp.float32)
    mean = jnp.sum(history, where=filled) / jnp.maximum(number, 1.0)
    variance = jnp.sum(jnp.square(history - mean), where=filled) / jnp.maximum(number - 1, 1.0)
    return jnp.where(number < max(2, window // 2), jnp.inf, mean + sigmas * jnp.sqrt(variance))


@conditional_updates
def skip_spikes(
    inner: GradientTransformation, *, watch: str = "norm", sigmas: ArrayLike = 6.0, window: int = 128
) -> GradientTransformationExtraArgs:
    """Skips steps with an outlying loss or gradient norm.

    As in OLMo's optimizers. Spikes enter the window like other measurements, so that a lasting change is soon accepted.
    NaN and infinity are always skipped and never enter it. To watch both loss and norm, wrap twice.

    Args:
      inner: a transformation.
      watch: "norm", the global norm of the gradient, or "loss", the extra arg ``value``.
      sigmas: sample standard deviations above the mean.
      window: number of measurements, at least 2; no finite one is skipped until half of the window is filled.

    Returns:
      A transformation with a :class:`SkipSpikesState`, with the state of ``inner`` and 4 bytes per entry of the window.

    Raises:
      ValueError: an argument is out of range, or ``update`` is called without ``value`` while watching the loss.

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
        raise ValueError(f"unknown watch={watch!r}: choose from {', '.join(WATCHED)}")
    if not isinstance(window, int) or window < 2:
        raise ValueError(f"window={window} is out of range: give an integer >= 2")
    inner = with_extra_args_support(inner)

    def init(params):
        zero = jnp.zeros((), jnp.int32)
        return SkipSpikesState(zero, jnp.copy(zero), jnp.zeros(window, jnp.float32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        measured = WATCHED[watch](updates, extra_args).astype(jnp.float32)
        finite = jnp.isfinite(measured)
        take = finite & (measured <= _bound(state.history, state.count, sigmas))
        new, inner_state = update_if(take, inner, updates, state.inner_state, params, extra_args)
        index = state.count % window
        history = state.history.at[index].set(jnp.where(finite, measured, state.history[index]))
        count = jnp.where(finite, increment(state.count), state.count)
        skipped = jnp.where(take, state.skipped, increment(state.skipped))
        return new, SkipSpikesState(count, skipped, history, inner_state)

    return transformation(init, update)
