"""Drawing a token from logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minigpt_flax.errors import UserError


def check_drawing(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuses numbers that no token can be drawn with.

    Raises:
        UserError: If one is out of range.
    """
    if not temperature >= 0:
        raise UserError(f"temperature={temperature} is negative or none; 0 is greedy, 1 the model's own distribution")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} leaves no token; give 1 or more, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not in (0, 1]; give a number that is, or None for all")


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
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    if top_k is None and top_p is None:  # spares the sorting, which takes longer than a small model
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
