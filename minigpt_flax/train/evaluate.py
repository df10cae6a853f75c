"""Validation: the loss over every token of a split, always the same windows, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

WindowLosses = Callable[..., tuple[Float[Array, " B"], Float[Array, " B"]]]
"""``(params, inputs, targets, mask) -> (summed loss, tokens)`` of each window."""

Window = tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]


class Abandoned(Exception):
    """A validation was asked to end early; what it had so far is no result."""


def evaluate(
    window_losses: WindowLosses, params: Any, windows: Iterable[Window], stop: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Averages the loss over all tokens of the windows.

    Args:
      window_losses: jitted.
      params: the parameters to judge.
      windows: batches of one shape, see ``evaluation_windows``.
      stop: asked before every batch.

    Returns:
      ``val_loss`` in nats per token, ``val_sem`` its standard error taking windows as independent, ``val_perplexity``.

    Raises:
      Abandoned: ``stop`` said so.
    """
    parts = list(_measure(window_losses, params, windows, stop))
    sums, counts = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    mean = sums.sum() / counts.sum()
    # Ratio estimator: windows differ in their number of tokens, and padding has none and adds nothing.
    spread = np.sqrt(np.sum((sums - mean * counts) ** 2)) / counts.sum()
    return {"val_loss": float(mean), "val_sem": float(spread), "val_perplexity": _exp(float(mean))}


def _measure(
    window_losses: WindowLosses, params: Any, windows: Iterable[Window], stop: Callable[[], bool]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fetches the result of a batch after the next one was sent, so that the device doesn't wait."""
    pending = None
    for inputs, targets, mask in windows:
        if stop():
            raise Abandoned
        sent = window_losses(params, jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(mask))
        if pending is not None:
            yield jax.device_get(pending)
        pending = sent
    yield jax.device_get(pending)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
