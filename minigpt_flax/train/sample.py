"""Text generation: continue prompts with a model, and stream the decoded text."""

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

TEMPERATURE = 0.8  # slightly sharper than the model's own distribution


class Piece(NamedTuple):
    """The next part of one text."""

    row: int
    text: str
    tokens: int  # number of sampled tokens
    last: bool


def write(
    model: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    *,
    seed: int = 0,
    stops: Sequence[str] = (),
    **sampling: Any,
) -> Iterator[list[Piece]]:
    """Continues prompts in one batch.

    Args:
      model: configuration of the model.
      params: the model's parameters.
      tokenizer: of the run.
      prompts: None starts after a newline.
      seed: of the sampling.
      stops: a text ends before the first occurrence of one of these.
      **sampling: ``max_tokens``, ``temperature``, ``top_k``, ``top_p`` of ``stream``.

    Returns:
      An iterator over lists of pieces, one for each unfinished text, of a few tokens each. The joined pieces of a text
      are the text without its prompt.

    Raises:
      UserError: a prompt has characters that the tokenizer lacks, or a number is out of range.
    """
    starts = [beginning(tokenizer) if prompt is None else tokenizer.encode(prompt) for prompt in prompts]
    chunks = stream(model, params, starts, jax.random.key(seed), vocab_size=tokenizer.vocab_size, **sampling)
    texts = [TextStream(tokenizer) for _ in prompts]
    for text, prompt, start in zip(texts, prompts, starts, strict=True):
        if prompt is not None:
            text.add(start.tolist())  # the decoded text may depend on it: numbers are joined by spaces
    return _pieces(texts, chunks, [StopStream(stops) for _ in prompts])


def _pieces(
    texts: Sequence[TextStream], chunks: Iterator[np.ndarray], ends: Sequence[StopStream]
) -> Iterator[list[Piece]]:
    unfinished = range(len(texts))
    for chunk in chunks:
        new = {row: ends[row].add(texts[row].add(chunk[row].tolist())) for row in unfinished}
        yield [Piece(row, text, chunk.shape[1], ends[row].stopped) for row, text in new.items()]
        unfinished = [row for row in unfinished if not ends[row].stopped]
        if not unfinished:
            return
    yield [Piece(row, ends[row].add(texts[row].end()) + ends[row].end(), 0, True) for row in unfinished]


def sample(
    model: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompt: str | None = None,
    *,
    num: int = 1,
    **options: Any,
) -> list[str]:
    """Continues a prompt ``num`` times and waits for the end; ``options`` are those of ``write``.

    Returns:
      ``num`` texts, each with its prompt.
    """
    texts = [prompt or ""] * num
    for pieces in write(model, params, tokenizer, [prompt] * num, **options):
        for piece in pieces:
            texts[piece.row] += piece.text
    return texts


def beginning(tokenizer: Tokenizer) -> np.ndarray:
    """Returns the prompt of a text without one: a newline, or token 0 if the tokenizer has no newline."""
    try:
        tokens = tokenizer.encode("\n")
    except UserError:
        tokens = np.zeros(0, np.int32)
    return tokens if tokens.size else np.zeros(1, np.int32)
