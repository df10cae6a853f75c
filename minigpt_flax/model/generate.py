"""Sampling: one token after the other, each from the distribution that the model gives for it.

A model reads at most ``context`` tokens, its window. When a token comes to a window that is full, the window gives way
to its newer half (that token included), which is read anew: positions count from the window's beginning, so nothing
remembered would stay right. Every token thus sees between half a context and a whole one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.kv_cache import cut, read, read_one
from minigpt_flax.model.sampling import check_drawing, sample_logits

CHUNK = 16  # tokens of a row from one look at the device to the next

Window = Integer[np.ndarray, " _"]


def generate(
    config: ModelConfig, params: Mapping[str, Any], prompts: Iterable[Any], key: Array, *, max_tokens: int, **how: Any
) -> Int32[np.ndarray, "B max_tokens"]:
    """Continues each prompt by ``max_tokens`` tokens; takes what `stream` takes, and waits for the end.

    Returns:
        The new tokens, without the prompts.
    """
    return np.concatenate([*stream(config, params, prompts, key, max_tokens=max_tokens, **how)], axis=1)


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
    vocab_size: int | None = None,
) -> Iterator[Int32[np.ndarray, "B _"]]:
    """Continues each prompt by ``max_tokens`` tokens, a few at a time.

    Other temperatures, numbers of tokens, values of ``top_k`` and ``top_p`` do not compile again.

    Args:
        config: The configuration that made ``params``.
        params: The model's parameters.
        prompts: Token numbers, at least one each, of any lengths; only the last ``config.context`` are read. What a
            prompt becomes does not depend on the others.
        key: Random key; token i of row b is drawn with ``fold_in(fold_in(key, b), i)``.
        max_tokens: How many tokens to add.
        temperature: Divides the logits: 1 is the model's own distribution, below 1 is safer, 0 is greedy.
        top_k: Draw from the k likeliest tokens only. None means all.
        top_p: Draw from the smallest set of likeliest tokens that holds this probability. None means all.
        vocab_size: Draw from tokens below this only: those above are padding. None means all.

    Returns:
        An iterator over the new tokens.

    Raises:
        UserError: If a prompt is empty or a number is out of range.
    """
    windows = [np.asarray(prompt, np.int32)[-config.context :] for prompt in prompts]
    if not windows or any(window.size == 0 for window in windows):
        raise UserError("the prompt is empty; give at least one token")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} is not positive")
    check_drawing(temperature, top_k, top_p)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(windows)))
    settings = (jnp.float32(temperature), top_k, top_p)
    return _stream(config, _cut(params), windows, max_tokens, (keys, *settings), vocab_size)


def _stream(config, parts, windows, max_tokens, drawing, vocab_size) -> Iterator[np.ndarray]:
    done = 0
    while done < max_tokens:
        tokens, cache = _begin(config, vocab_size, parts, *_padded(windows, config.context), drawing, done)
        room = config.context - max(window.size for window in windows)  # tokens until a window is full
        yield np.asarray(tokens)[:, None]
        windows, done = append(windows, np.asarray(tokens)[:, None], config.context), done + 1
        while room > 0 and done < max_tokens:
            count = min(CHUNK, room, max_tokens - done)
            new, tokens, cache = _go_on(config, vocab_size, parts, cache, tokens, drawing, done, count)
            new = np.asarray(new)[:, :count]
            yield new
            windows, done, room = append(windows, new, config.context), done + count, room - count


def append(windows: Sequence[Window], new: Integer[np.ndarray, "B n"], context: int) -> list[Window]:
    """Appends tokens to windows; one that was full keeps its newer half, the first of these tokens included.

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
    """Windows as an array, filled up on the right to half a context or a whole one: two programs do; their lengths."""
    lengths = [window.size for window in windows]
    half = context - context // 2
    rows = np.zeros((len(windows), half if max(lengths) <= half else context), np.int32)
    for row, window in zip(rows, windows, strict=True):
        row[: window.size] = window
    return jnp.asarray(rows), jnp.asarray(lengths, jnp.int32)


_cut = jax.jit(cut)


def _draw(logits, vocab_size, drawing, i):
    """Draws token i of every row."""
    keys, *settings = drawing
    one = lambda row, key: sample_logits(row[:vocab_size], jax.random.fold_in(key, i), *settings)
    return jax.vmap(one)(logits, keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(config, vocab_size, parts, windows, lengths, drawing, i):
    """Reads the windows and draws token i."""
    logits, cache = read(config, parts, windows, lengths)
    return _draw(logits, vocab_size, drawing, i), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnames="cache")
def _go_on(config, vocab_size, parts, cache, tokens, drawing, i, count):
    """Reads ``tokens``, draws token i, reads it, draws the next, ``count`` times, at most ``CHUNK``."""

    def step(n, carry):
        tokens, cache, new = carry
        logits, cache = read_one(config, parts, cache, tokens)
        tokens = _draw(logits, vocab_size, drawing, i + n)
        return tokens, cache, new.at[:, n].set(tokens)

    new = jnp.zeros((tokens.shape[0], CHUNK), jnp.int32)
    tokens, cache, new = jax.lax.fori_loop(0, count, step, (tokens, cache, new))
    return new, tokens, cache
