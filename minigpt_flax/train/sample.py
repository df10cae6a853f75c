"""Text generation: continue prompts with a model, and stream the decoded text."""

from __future__ import annotations

import functools
import re
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
    ignore_eos: bool = False,
    special_tokens: bool = False,
    **sampling: Any,
) -> Iterator[list[Piece]]:
    """Continues prompts in one batch; a text ends at an end-of-text token, which is not part of it.

    Args:
      model: configuration of the model.
      params: the model's parameters.
      tokenizer: of the run.
      prompts: None starts after an end-of-text token, see :func:`beginning`.
      seed: of the sampling.
      stops: a text ends before the first occurrence of one of these.
      ignore_eos: continue after end-of-text tokens, which are then part of the text.
      special_tokens: read ``<|endoftext|>`` and other special tokens in prompts as these tokens, not as text.
      **sampling: ``max_tokens``, ``temperature``, ``top_k``, ``top_p``, ``min_p`` and ``repetition_penalty`` of
        ``stream``.

    Returns:
      An iterator over lists of pieces, one for each unfinished text, of a few tokens each. The joined pieces of a text
      are the text without its prompt.

    Raises:
      UserError: a prompt has characters that the tokenizer lacks, or a number is out of range.
    """
    encode = functools.partial(encode_special, tokenizer) if special_tokens else tokenizer.encode
    starts = [beginning(tokenizer) if prompt is None else encode(prompt) for prompt in prompts]
    chunks = stream(model, params, starts, jax.random.key(seed), vocab_size=tokenizer.vocab_size, **sampling)
    texts = [TextStream(tokenizer) for _ in prompts]
    for text, prompt, start in zip(texts, prompts, starts, strict=True):
        if prompt is not None:
            text.add(start.tolist())  # the decoded text may depend on it: numbers are joined by spaces
    end_of_text = None if ignore_eos else tokenizer.eot
    return _pieces([_Writer(text, StopStream(stops), end_of_text) for text in texts], chunks)


class _Writer:
    """The end of one text."""

    def __init__(self, text: TextStream, stop: StopStream, end_of_text: int | None):
        self._text, self._stop, self._end_of_text = text, stop, end_of_text
        self.ended = False

    def add(self, tokens: list[int]) -> tuple[str, int]:
        """Appends tokens; returns the text that is complete, and the number of tokens up to the end-of-text token."""
        if self._end_of_text in tokens:
            before = tokens.index(self._end_of_text)
            return self._stop.add(self._text.add(tokens[:before])) + self.end(), before + 1
        text = self._stop.add(self._text.add(tokens))
        self.ended = self._stop.stopped
        return text, len(tokens)

    def end(self) -> str:
        """Ends the text; returns what was held back."""
        self.ended = True
        return self._stop.add(self._text.end()) + self._stop.end()


def _pieces(writers: Sequence[_Writer], chunks: Iterator[np.ndarray]) -> Iterator[list[Piece]]:
    unfinished = dict(enumerate(writers))
    for chunk in chunks:
        new = {row: writer.add(chunk[row].tolist()) for row, writer in unfinished.items()}
        yield [Piece(row, *piece, writers[row].ended) for row, piece in new.items()]
        unfinished = {row: writer for row, writer in unfinished.items() if not writer.ended}
        if not unfinished:
            return
    yield [Piece(row, writer.end(), 0, True) for row, writer in unfinished.items()]


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
    """Returns the prompt of a text without one: the end-of-text token, or else a newline, or else token 0."""
    if tokenizer.eot is not None:
        return np.array([tokenizer.eot], np.int32)
    try:
        tokens = tokenizer.encode("\n")
    except UserError:
        tokens = np.zeros(0, np.int32)
    return tokens if tokens.size else np.zeros(1, np.int32)


def encode_special(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Encodes a text in which the names of special tokens stand for these tokens.

    Raises:
      UserError: the tokenizer has no special tokens, or can't encode the text.
    """
    special = tokenizer.special_tokens
    if not special:
        raise UserError(f"the {tokenizer.name} tokenizer has no special tokens: omit --special-tokens")
    names = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    parts = [part for part in re.split(f"({names})", text) if part]
    ids = [np.array([special[part]], np.int32) if part in special else tokenizer.encode(part) for part in parts]
    return np.concatenate([np.zeros(0, np.int32), *ids])
