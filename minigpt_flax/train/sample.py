"""Text from a model: a prompt in, its continuations out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.data import Tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import generate

TEMPERATURE = 0.8  # a little safer than the model's own distribution


def sample(
    model: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    *,
    num: int = 1,
    seed: int = 0,
    **how: Any,
) -> list[str]:
    """Continues a prompt.

    Args:
      model: sizes and parts.
      params: the model's parameters.
      tokenizer: of the run.
      prompt: None begins a new line.
      num: how many continuations.
      seed: of the draws.
      **how: ``max_tokens``, ``temperature``, ``top_k``, ``top_p`` of ``generate``.

    Returns:
      ``num`` texts, each with its prompt.

    Raises:
      UserError: the prompt has characters that the tokenizer lacks, or a number is out of range.
    """
    start = beginning(tokenizer) if prompt is None else tokenizer.encode(prompt)
    prompts = np.tile(start, (num, 1))
    rows = np.asarray(generate(model, params, jnp.asarray(prompts), jax.random.key(seed), **how))
    whole = rows if prompt is None else np.concatenate([prompts, rows], axis=1)
    return [tokenizer.decode(row) for row in whole]


def beginning(tokenizer: Tokenizer) -> np.ndarray:
    """What a text begins after: the end of a line, or the first token where there are no lines."""
    try:
        tokens = tokenizer.encode("\n")
    except UserError:
        tokens = np.zeros(0, np.int32)
    return tokens if tokens.size else np.zeros(1, np.int32)
