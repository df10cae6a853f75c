"""Loss by position in the context, that is by the number of tokens that the model sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from minigpt_flax.model import gpt
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.train.evaluate import Window, mean_and_error, measure


@dataclass(frozen=True)
class Losses:
    """Mean losses in nats per token, with standard errors that treat windows as independent.

    Attributes:
      mean: over all tokens.
      error: of the mean.
      by_position: mean over the tokens at each position of the context; NaN without tokens.
      errors: of ``by_position``.
    """

    mean: float
    error: float
    by_position: Float[np.ndarray, " T"]
    errors: Float[np.ndarray, " T"]


def token_losses(model: ModelConfig) -> Callable[..., tuple[Float[Array, "B T"], Float[Array, "B T"]]]:
    """Returns a jitted ``(params, inputs, targets, mask) -> (loss, mask as float)`` of each token."""

    def losses(params: Any, inputs: Integer[Array, "B T"], targets: Integer[Array, "B T"], mask: Bool[Array, "B T"]):
        counts = mask.astype(jnp.float32)
        return gpt.losses(model, params, inputs, targets) * counts, counts

    return jax.jit(losses)


def losses_of(model: ModelConfig, params: Any, windows: Iterable[Window]) -> Losses:
    """Measures the loss over all tokens of the windows.

    Args:
      model: sizes and parts.
      params: parameters of the model.
      windows: batches of one shape, see ``evaluation_windows``.
    """
    parts = measure(token_losses(model), params, windows)
    sums, counts = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    tokens = counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        means = sums.sum(axis=0) / tokens
        errors = np.sqrt(np.sum((sums - means * counts) ** 2, axis=0)) / tokens
    return Losses(*mean_and_error(sums.sum(axis=1), counts.sum(axis=1)), means, errors)


def octaves(context: int) -> list[tuple[int, int]]:
    """Splits positions 0 to ``context - 1`` into ranges [first, end) of doubling length.

    >>> octaves(10)
    [(0, 1), (1, 2), (2, 4), (4, 8), (8, 10)]
    """
    borders = [0, *(1 << i for i in range(context.bit_length()) if 1 << i < context), context]
    return list(zip(borders, borders[1:], strict=False))


def table(by_position: Float[np.ndarray, " T"], width: int = 40) -> str:
    """Formats a bar chart of the mean loss over ranges of positions of doubling length.

    Args:
      by_position: mean loss at each position.
      width: of the longest bar.
    """
    rows = [(first, end, by_position[first:end].mean()) for first, end in octaves(len(by_position))]
    rows = [row for row in rows if np.isfinite(row[2])]
    longest = max(loss for _, _, loss in rows)
    lines = [f"{'tokens seen':>13s}  nats/token"]
    for first, end, loss in rows:
        context = str(end) if end == first + 1 else f"{first + 1} to {end}"
        lines.append(f"{context:>13s}  {loss:10.4f}  {'#' * max(1, round(width * loss / longest))}")
    return "\n".join(lines)
