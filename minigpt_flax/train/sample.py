"""Text from a model: prompts in, their continuations out, piece by piece as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from minigpt_flax.data import Tokenizer
from minigpt_flax.data.detokenize import StopStream, TextStream
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import stream

TEMPERATURE = 0.8  # a little safer than the model's own distribution


class Piece(NamedTuple):
    """What came to one text."""

    row: int
    text: str
    tokens: int  # that were drawn for it
    last: bool


def write(
    model: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    *,
    seed: int = 0,
    stops: Sequence[str] = (),
    **how: Any,
) -> Iterator[list[Piece]]:
    """Continues prompts, all together.

    Args:
      model: sizes and parts.
      params: the model's parameters.
      tokenizer: of the run.
      prompts: None begins a new line.
      seed: of the draws.
      stops: a text ends before the first of these.
      **how: ``max_tokens``, ``temperature``, ``top_k``, ``top_p`` of ``stream``.

    Returns:
      An iterator over what came to each text that has not ended, a few tokens at a time. The pieces of a text, joined,
      are the text without its prompt.

    Raises:
      UserError: a prompt has characters that the tokenizer lacks, or a number is out of range.
    """
    starts = [beginning(tokenizer) if prompt is None else tokenizer.encode(prompt) for prompt in prompts]
    chunks = stream(model, params, starts, jax.random.key(seed), vocab_size=tokenizer.vocab_size, **how)
    texts = [TextStream(tokenizer) for _ in prompts]
    for text, prompt, start in zip(texts, prompts, starts, strict=True):
        if prompt is not None:
            text.add(start.tolist())  # what follows may depend on it: numbers are joined by spaces
    return _pieces(texts, chunks, [StopStream(stops) for _ in prompts])


def _pieces(
    texts: Sequence[TextStream], chunks: Iterator[np.ndarray], ends: Sequence[StopStream]
) -> Iterator[list[Piece]]:
    going_on = range(len(texts))
    for chunk in chunks:
        new = {row: ends[row].add(texts[row].add(chunk[row].tolist())) for row in going_on}
        yield [Piece(row, text, chunk.shape[1], ends[row].stopped) for row, text in new.items()]
        going_on = [row for row in going_on if not ends[row].stopped]
        if not going_on:
            return
    yield [Piece(row, ends[row].add(texts[row].end()) + ends[row].end(), 0, True) for row in going_on]


def sample(
    model: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    *,
    num: int = 1,
    **how: Any,
) -> list[str]:
    """Continues a prompt ``num`` times; takes what ``write`` takes, and waits for the end.

    Returns:
      ``num`` texts, each with its prompt.
    """
    texts = [prompt or ""] * num
    for pieces in write(model, params, tokenizer, [prompt] * num, **how):
        for piece in pieces:
            texts[piece.row] += piece.text
    return texts


def beginning(tokenizer: Tokenizer) -> np.ndarray:
    """What a text begins after: the end of a line, or the first token where there are no lines."""
    try:
        tokens = tokenizer.encode("\n")
    except UserError:
        tokens = np.zeros(0, np.int32)
    return tokens if tokens.size else np.zeros(1, np.int32)
