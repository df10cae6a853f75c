"""Reference generation without a KV cache: the whole window passes through the model for every token.

`minigpt_flax.model.generate` is tested and timed against it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.sampling import sample_logits


@functools.partial(jax.jit, static_argnums=(0,), static_argnames="max_tokens")
def generate_uncached(
    config: ModelConfig,
    params: Mapping[str, Any],
    prompt: Integer[Array, "B P"],
    key: Array,
    *,
    max_tokens: int,
    temperature: float | Array = 1.0,
    top_k: int | Array | None = None,
    top_p: float | Array | None = None,
) -> Int[Array, "B max_tokens"]:
    """Generate the same tokens as `generate`, for prompts of one length, in one compiled program."""
    recent = prompt[:, -config.context :].astype(jnp.int32)
    window = jnp.pad(recent, ((0, 0), (0, config.context - recent.shape[1])))
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(prompt)))

    def step(carry, i):
        window, length = carry
        # Tokens to the right of the last one are padding, which causal attention ignores.
        logits = apply(config, params, window)[:, length - 1]
        one = lambda row, key: sample_logits(row, jax.random.fold_in(key, i), temperature, top_k, top_p)
        token = jax.vmap(one)(logits, keys)
        full, older = length == config.context, config.context // 2 + 1
        window = jnp.where(full, jnp.roll(window, -older, axis=1), window)
        length = jnp.where(full, length - older, length) + 1
        return (window.at[:, length - 1].set(token), length), token

    carry = (window, jnp.int32(recent.shape[1]))
    _, tokens = jax.lax.scan(step, carry, jnp.arange(max_tokens))
    return tokens.T
