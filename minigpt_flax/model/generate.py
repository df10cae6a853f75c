"""Generation: one token after the other, each sampled from the model's distribution of the next token.

The model reads at most ``context`` tokens, its window. A token that is appended to a full window drops the older half:
the newer half, this token included, is prefilled again, because positions count from the start of the window and every
cached key would be wrong. Each token therefore has between half a context and a full one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.kv_cache import decode, prefill, split_layers
from minigpt_flax.model.sampling import check_sampling, penalize_repetition, sample_logits

CHUNK = 16  # tokens per row between two synchronizations with the device

Window = Integer[np.ndarray, " _"]


def generate(
    config: ModelConfig,
    params: Mapping[str, Any],
    prompts: Iterable[Any],
    key: Array,
    *,
    max_tokens: int,
    **options: Any,
) -> Int32[np.ndarray, "B max_tokens"]:
    """Continue each prompt by ``max_tokens`` tokens; takes the arguments of `stream` and waits for the last token.

    Returns:
      The new tokens, without the prompts.
    """
    return np.concatenate([*stream(config, params, prompts, key, max_tokens=max_tokens, **options)], axis=1)


def stream(
    config: ModelConfig,
    params: Mapping[str, Any],
    prompts: Iterable[Any],
    key: Array,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    vocab_size: int | None = None,
) -> Iterator[Int32[np.ndarray, "B _"]]:
    """Continue each prompt by ``max_tokens`` tokens, yielding a few at a time.

    Another number of tokens, or another value of a setting, does not recompile.

    Args:
      config: configuration of ``params``.
      params: parameters of the model.
      prompts: token ids, at least one each, of any lengths; only the last ``config.context`` are used. Prompts do not
        influence each other.
      key: random key; token i of row b is sampled with ``fold_in(fold_in(key, b), i)``.
      max_tokens: number of tokens to generate per prompt.
      temperature: divides the logits: 1 is the model's own distribution, below 1 is less random, 0 is greedy.
      top_k: sample from the k most likely tokens only; None means all.
      top_p: sample from the smallest set of most likely tokens with this total probability; None means all.
      min_p: sample only tokens with at least this share of the largest probability; None means all.
      repetition_penalty: above 1, tokens of the prompt and of the text so far become less likely, see
        `penalize_repetition`; None means no penalty.
      vocab_size: sample only tokens below this number, as those above are padding; None means all.

    Returns:
      An iterator over the new tokens.

    Raises:
      UserError: a prompt is empty, or a number is out of range.
    """
    texts = [np.asarray(prompt, np.int32) for prompt in prompts]
    if not texts or any(text.size == 0 for text in texts):
        raise UserError("the prompt is empty; give at least one token")
    if max_tokens < 1:
        raise UserError(f"max_tokens must be at least 1, got {max_tokens}")
    check_sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(texts)))
    tail = None if top_p is None else 1 - top_p  # in double precision, as in PyTorch
    sampling = _Sampling(keys, repetition_penalty, jnp.float32(temperature), top_k, tail, min_p)
    seen = None if repetition_penalty is None else _seen(texts, config.vocab_size)
    return _stream(config, _split_layers(params), texts, max_tokens, sampling, seen, vocab_size)


class _Sampling(NamedTuple):
    keys: Array  # one per row
    penalty: Any
    temperature: Any
    top_k: Any
    tail: Any
    min_p: Any


def _seen(texts: Sequence[Window], vocab_size: int) -> Bool[Array, "B V"]:
    """Return which tokens occur in each text."""
    seen = np.zeros((len(texts), vocab_size), bool)
    for row, text in zip(seen, texts, strict=True):
        row[text] = True
    return jnp.asarray(seen)


def _stream(config, params, texts, max_tokens, sampling, seen, vocab_size) -> Iterator[np.ndarray]:
    windows, done = [text[-config.context :] for text in texts], 0
    while done < max_tokens:
        padded = _padded(windows, config.context)
        tokens, seen, cache = _prefill(config, vocab_size, params, *padded, sampling, seen, done)
        room = config.context - max(window.size for window in windows)  # tokens until a window is full
        yield np.asarray(tokens)[:, None]
        windows, done = append(windows, np.asarray(tokens)[:, None], config.context), done + 1
        while room > 0 and done < max_tokens:
            count = min(CHUNK, room, max_tokens - done)
            new, tokens, seen, cache = _decode_chunk(
                config, vocab_size, params, cache, tokens, sampling, seen, done, count
            )
            new = np.asarray(new)[:, :count]
            yield new
            windows, done, room = append(windows, new, config.context), done + count, room - count


def append(windows: Sequence[Window], new: Integer[np.ndarray, "B n"], context: int) -> list[Window]:
    """Append tokens to windows; a full window is cut to its newer half, the first of these tokens included.

    >>> append([np.arange(4), np.arange(2)], np.array([[9], [9]]), context=4)
    [array([3, 9]), array([0, 1, 9])]
    """
    appended = []
    for window, tokens in zip(windows, new, strict=True):
        for token in tokens:
            kept = window[context // 2 + 1 :] if window.size == context else window
            window = np.append(kept, token)
        appended.append(window)
    return appended


def _padded(windows: Sequence[Window], context: int) -> tuple[Int[Array, "B P"], Int[Array, " B"]]:
    """Right-pad windows to half a context or a full one, so that only two programs compile; return the lengths too."""
    lengths = [window.size for window in windows]
    half = context - context // 2
    rows = np.zeros((len(windows), half if max(lengths) <= half else context), np.int32)
    for row, window in zip(rows, windows, strict=True):
        row[: window.size] = window
    return jnp.asarray(rows), jnp.asarray(lengths, jnp.int32)


_split_layers = jax.jit(split_layers)


def _sample(logits, vocab_size, sampling, seen, i):
    """Sample token i of every row; return also which tokens its text now has."""
    logits = logits if seen is None else penalize_repetition(logits, seen, sampling.penalty)
    _, _, temperature, top_k, tail, min_p = sampling

    def one(row, key):
        return sample_logits(row[:vocab_size], jax.random.fold_in(key, i), temperature, top_k, min_p=min_p, tail=tail)

    tokens = jax.vmap(one)(logits, sampling.keys)
    return tokens, None if seen is None else seen.at[jnp.arange(len(tokens)), tokens].set(True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(config, vocab_size, params, windows, lengths, sampling, seen, i):
    """Prefill the windows and sample token i."""
    logits, cache = prefill(config, params, windows, lengths)
    return *_sample(logits, vocab_size, sampling, seen, i), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnames="cache")
def _decode_chunk(config, vocab_size, params, cache, tokens, sampling, seen, i, count):
    """Decode ``count`` tokens, at most ``CHUNK``: read ``tokens``, sample token i, read it, sample the next."""

    def step(n, carry):
        tokens, seen, cache, new = carry
        logits, cache = decode(config, params, cache, tokens)
        tokens, seen = _sample(logits, vocab_size, sampling, seen, i + n)
        return tokens, seen, cache, new.at[:, n].set(tokens)

    new = jnp.zeros((tokens.shape[0], CHUNK), jnp.int32)
    tokens, seen, cache, new = jax.lax.fori_loop(0, count, step, (tokens, seen, cache, new))
    return new, tokens, seen, cache
