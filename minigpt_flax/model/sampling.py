"""Sampling of a token from logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minigpt_flax.errors import UserError


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
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


def sample_logits(
    logits: Float[Array, "*batch V"],
    key: Array,
    temperature: float | Float[Array, ""] = 1.0,
    top_k: int | Int[Array, ""] | None = None,
    top_p: float | Float[Array, ""] | None = None,
) -> Int[Array, "*batch"]:
    """Sample one token from each row.

    The temperature divides the logits; then only the ``top_k`` most likely tokens remain, and of these the smallest set
    of most likely tokens whose renormalized probabilities reach ``top_p`` (nucleus sampling, Holtzman et al. 2020,
    arXiv:1904.09751). The most likely token always remains. Ties are broken in favor of the lower token id.

    Args:
      logits: unnormalized log-probabilities.
      key: random key.
      temperature: at least 0; 0 takes the most likely token.
      top_k: at least 1; None means all.
      top_p: in (0, 1]; None means 1, all.

    Returns:
      Token ids.

    >>> int(sample_logits(jnp.array([0.0, 3.0, 1.0]), jax.random.key(0), temperature=0.0))
    1
    """
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    if top_k is None and top_p is None:  # without the sort, which takes longer than a small model
        drawn = jax.random.categorical(key, scaled, axis=-1)
        return jnp.where(temperature > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    ranked = jnp.take_along_axis(scaled, order, axis=-1)
    if top_k is not None:
        ranked = jnp.where(jnp.broadcast_to(jnp.arange(logits.shape[-1]), logits.shape) < top_k, ranked, -jnp.inf)
    if top_p is not None:
        probability = jax.nn.softmax(ranked, axis=-1)
        before = jnp.cumsum(probability, axis=-1) - probability
        ranked = jnp.where(before < top_p, ranked, -jnp.inf)
    drawn = jnp.where(temperature > 0, jax.random.categorical(key, ranked, axis=-1), 0)
    return jnp.take_along_axis(order, drawn[..., None], axis=-1)[..., 0].astype(jnp.int32)
