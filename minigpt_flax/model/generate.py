"""Sampling: one token after the other, each from the distribution that the model gives for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply


def generate(
    config: ModelConfig,
    params: Mapping[str, Any],
    prompt: Integer[Array, "B P"],
    key: Array,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, "B max_tokens"]:
    """Continues each prompt by ``max_tokens`` tokens, all in one compiled program.

    Every token costs a pass over the whole window of the last ``config.context`` tokens. Other temperatures, ``top_k``
    or ``top_p`` do not compile again.

    Args:
        config: The configuration that made ``params``.
        params: The model's parameters.
        prompt: At least one token each; only the last ``config.context`` are read.
        key: Random key; token i is drawn with ``fold_in(key, i)``.
        max_tokens: How many tokens to add.
        temperature: Divides the logits: 1 is the model's own distribution, below 1 is safer, 0 is greedy.
        top_k: Draw from the k likeliest tokens only. None means all.
        top_p: Draw from the smallest set of likeliest tokens that holds this probability. None means all.

    Returns:
        The new tokens, without the prompt.

    Raises:
        UserError: If the prompt is empty or a number is out of range.
    """
    if prompt.shape[1] == 0:
        raise UserError("the prompt is empty; give at least one token")
    if max_tokens < 1:
        raise UserError(f"max_tokens={max_tokens} is not positive")
    if temperature < 0:
        raise UserError(f"temperature={temperature} is negative; 0 is greedy, 1 the model's own distribution")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} leaves no token; give 1 or more, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not in (0, 1]; give a number that is, or None for all")
    k = config.vocab_size if top_k is None else top_k
    p = 1.0 if top_p is None else top_p
    return _generate(config, max_tokens, params, prompt.astype(jnp.int32), key, jnp.float32(temperature), k, p)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(config, max_tokens, params, prompt, key, temperature, top_k, top_p):
    """Scans over the new tokens with a window that fills up from the left and then slides."""
    recent = prompt[:, -config.context :]
    window = jnp.pad(recent, ((0, 0), (0, config.context - recent.shape[1])))

    def step(carry, i):
        window, length = carry
        # What lies to the right of the last token is padding, which causal attention cannot see.
        logits = apply(config, params, window)[:, length - 1]
        token = sample_logits(logits, jax.random.fold_in(key, i), temperature, top_k, top_p)
        full = length == config.context
        window = jnp.where(full, jnp.roll(window, -1, axis=1), window)
        length = jnp.where(full, length, length + 1)
        return (window.at[:, length - 1].set(token), length), token

    carry = (window, jnp.int32(recent.shape[1]))
    _, tokens = jax.lax.scan(step, carry, jnp.arange(max_tokens))
    return tokens.T


def sample_logits(
    logits: Float[Array, "*batch V"],
    key: Array,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | Int[Array, ""] | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, "*batch"]:
    """Draws one token from each row.

    The temperature divides the logits, then only the ``top_k`` likeliest tokens stay, then of these the smallest set of
    likeliest ones whose renormalised probabilities reach ``top_p`` (Holtzman et al. 2020, arXiv:1904.09751). The
    likeliest always stays. Of equal logits the lower token comes first.

    Args:
        logits: Unnormalised log-probabilities.
        key: Random key.
        temperature: At least 0; 0 takes the likeliest token.
        top_k: At least 1. None means all.
        top_p: In (0, 1]. None means 1, all.

    Returns:
        Token numbers.

    >>> int(sample_logits(jnp.array([0.0, 3.0, 1.0]), jax.random.key(0), temperature=0.0))
    1
    """
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    ranked = ranked / jnp.where(temperature > 0, temperature, 1.0)
    rank = jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape)
    if top_k is not None:
        ranked = jnp.where(rank < top_k, ranked, -jnp.inf)
    if top_p is not None:
        probability = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        ranked = jnp.where(before < top_p, ranked, -jnp.inf)
    drawn = jax.random.categorical(key, ranked, axis=-1)
    drawn = jnp.where(temperature > 0, drawn, 0)
    return jnp.take_along_axis(order, drawn[..., None], axis=-1)[..., 0].astype(jnp.int32)
