"""Validation: mean loss over all tokens of a split, on fixed windows, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

WindowLosses = Callable[..., tuple[Float[Array, " B"], Float[Array, " B"]]]
"""``(params, inputs, targets, mask) -> (summed loss, tokens)`` of each window."""

Window = tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]


class Abandoned(Exception):
    """A validation was stopped early and has no result."""


def evaluate(
    window_losses: WindowLosses, params: Any, windows: Iterable[Window], stop: Callable[[], bool] = lambda: False
) -> dict[str, float]:
    """Averages the loss over all tokens of the windows.

    Args:
      window_losses: jitted.
      params: parameters of the model.
      windows: batches of one shape, see ``evaluation_windows``.
      stop: called before every batch; True ends the validation.

    Returns:
      ``val_loss`` in nats per token; ``val_sem``, its standard error if windows are independent; ``val_perplexity``.

    Raises:
      Abandoned: ``stop`` returned True.
    """
    parts = measure(window_losses, params, windows, stop)
    sums, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    mean, error = mean_and_error(sums, counts)
    return {"val_loss": mean, "val_sem": error, "val_perplexity": perplexity(mean)}


def mean_and_error(sums: Float[np.ndarray, " N"], counts: Float[np.ndarray, " N"]) -> tuple[float, float]:
    """Averages the loss over all tokens, and estimates the standard error if windows are independent.

    Args:
      sums: loss of each window, summed over its tokens.
      counts: number of tokens of each window, not all zero.

    Returns:
      The mean and its standard error.
    """
    sums, counts = sums.astype(np.float64), counts.astype(np.float64)
    mean = sums.sum() / counts.sum()
    # Ratio estimator: windows differ in their number of tokens; padding has none and contributes nothing.
    error = np.sqrt(np.sum((sums - mean * counts) ** 2)) / counts.sum()
    return float(mean), float(error)


def weighted_mean(results: Mapping[str, Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Combines the validations of several sources into the expected loss of a training batch.

    Args:
      results: of ``evaluate``, by source.
      weights: the sources' shares in the training batches; they sum to 1.

    Returns:
      Weighted means, under the same names as for one source; with several, also ``val_loss/SOURCE`` of each.
    """
    each = list(results.values())
    if len(each) == 1:
        return dict(each[0])
    mean = lambda name: sum(weight * one[name] for weight, one in zip(weights, each, strict=True))
    loss = mean("val_loss")
    sem = math.hypot(*(weight * one["val_sem"] for weight, one in zip(weights, each, strict=True)))
    combined = {"val_loss": loss, "val_sem": sem, "val_perplexity": perplexity(loss)}
    if all("val_bits_per_char" in one for one in each):
        combined["val_bits_per_char"] = mean("val_bits_per_char")
    return combined | {f"val_loss/{source}": one["val_loss"] for source, one in results.items()}


def measure(
    losses: Callable[..., tuple[Array, Array]],
    params: Any,
    windows: Iterable[Window],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the losses of each batch; fetches a result after the next batch was sent, so that the device doesn't wait.

    Args:
      losses: compiled, ``(params, inputs, targets, mask) -> (losses, tokens)`` of any shape.
      params: parameters of the model.
      windows: batches of one shape, see ``evaluation_windows``.
      stop: called before every batch; True ends the validation.

    Raises:
      Abandoned: ``stop`` returned True.
    """
    pending = None
    for window in windows:
        if stop():
            raise Abandoned
        sent = losses(params, *window)
        if pending is not None:
            yield jax.device_get(pending)
        pending = sent
    yield jax.device_get(pending)


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats: the number of equally likely tokens with the same uncertainty."""
    return math.exp(loss) if loss < 700 else math.inf
