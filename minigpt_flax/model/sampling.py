"""Sampling of a token from logits, with the definitions of Hugging Face's ``transformers``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minigpt_flax.errors import UserError


def check_sampling(
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> None:
    """Check the sampling options.

    Raises:
      UserError: one is out of range.
    """
    if not temperature >= 0:
        raise UserError(f"temperature must be at least 0, got {temperature}; 0 is greedy, 1 the model's distribution")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be at least 1, got {top_k}; None means all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}; None means all tokens")
    if min_p is not None and not 0 <= min_p <= 1:
        raise UserError(f"min_p must be from 0 to 1, got {min_p}; None means all tokens")
    if repetition_penalty is not None and not 0 < repetition_penalty < float("inf"):
        raise UserError(
            f"repetition_penalty must be above 0 and finite, got {repetition_penalty}; None means no penalty"
        )


def penalize_repetition(
    logits: Float[Array, "*batch V"], seen: Bool[Array, "*batch V"], penalty: float | Float[Array, ""]
) -> Float[Array, "*batch V"]:
    """Divide the positive logits of tokens that occurred by a penalty, and multiply the negative ones by it.

    Keskar et al. 2019 (arXiv:1909.05858).

    >>> penalize_repetition(jnp.array([2.0, -2.0, 2.0]), jnp.array([True, True, False]), 2.0).tolist()
    [1.0, -4.0, 2.0]
    """
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def sample_logits(
    logits: Float[Array, "*batch V"],
    key: Array,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | Int[Array, ""] | None = None,
    top_p: float | Float[Array, ""] | None = None,
    min_p: float | Float[Array, ""] | None = None,
    *,
    tail: float | Float[Array, ""] | None = None,
) -> Int[Array, "*batch"]:
    """Sample one token from each row.

    The temperature divides the logits; then only the ``top_k`` most likely tokens remain, and of these the smallest set
    of most likely tokens whose renormalized probabilities reach ``top_p`` (nucleus sampling, Holtzman et al. 2020,
    arXiv:1904.09751), and of these the ones with at least ``min_p`` times the largest probability (Nguyen et al. 2024,
    arXiv:2407.01082). The most likely token always remains. Ties are broken in favor of the lower token id.

    Args:
      logits: unnormalized log-probabilities.
      key: random key.
      temperature: at least 0; 0 takes the most likely token.
      top_k: at least 1; None means all.
      top_p: in (0, 1]; None means 1, all.
      min_p: in [0, 1]; None means 0, all.
      tail: ``1 - top_p`` in place of ``top_p``, for a caller that subtracts in double precision.

    Returns:
      Token ids.

    >>> int(sample_logits(jnp.array([0.0, 3.0, 1.0]), jax.random.key(0), temperature=0.0))
    1
    """
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    tail = tail if top_p is None else 1 - top_p
    if top_k is None and tail is None:  # without the sort, which takes longer than a small model
        drawn = jax.random.categorical(key, _at_least(min_p, scaled), axis=-1)
        return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    ranked = jnp.take_along_axis(scaled, order, axis=-1)
    if top_k is not None:
        ranked = jnp.where(jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape) < top_k, ranked, -jnp.inf)
    if tail is not None:
        least_likely_first = jnp.flip(jax.nn.softmax(ranked, axis=-1), axis=-1)
        beyond = jnp.flip(_cumulative_sum(least_likely_first), axis=-1) <= tail
        ranked = jnp.where(beyond.at[..., 0].set(False), -jnp.inf, ranked)
    drawn = jnp.where(temperature > 0, jax.random.categorical(key, _at_least(min_p, ranked), axis=-1), 0)
    return jnp.take_along_axis(order, drawn[..., None], axis=-1)[..., 0].astype(jnp.int32)


def _at_least(min_p: float | Array | None, logits: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
    """Remove the tokens with less than ``min_p`` times the largest probability."""
    if min_p is None:
        return logits
    probability = jax.nn.softmax(logits, axis=-1)
    return jnp.where(probability < min_p * probability.max(axis=-1, keepdims=True), -jnp.inf, logits)


def _cumulative_sum(probability: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
    """Sum in units of 2^-31, which integers add exactly, to be as exact as PyTorch, which adds in double precision."""
    units = jnp.round(probability * 2.0**31).astype(jnp.uint32)
    return jnp.cumsum(units, axis=-1).astype(probability.dtype) / 2.0**31
