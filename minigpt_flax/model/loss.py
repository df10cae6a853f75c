"""The training loss: how surprising the next tokens were."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


def cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Integer[Array, "B T"],
    mask: Bool[Array, "B T"] | Float[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums ``-log softmax(logits)[target]`` over the tokens.

    A sum and a count, not a mean: parts of a batch, on several devices or one after the other, then add up to the
    loss of the whole, whatever number of tokens each holds.

    Args:
        logits: Unnormalised log-probabilities, of any floating type; the arithmetic is float32.
        targets: The tokens that came.
        mask: Which tokens count, or with what weight. None means all.

    Returns:
        The sum in nats and the number (or total weight) of tokens, both float32.
    """
    logits = logits.astype(jnp.float32)
    # A comparison instead of a gather: its gradient is elementwise, where that of a gather is a scatter.
    hit = targets.astype(jnp.int32)[..., None] == jnp.arange(logits.shape[-1])[None, None, :]
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    if mask is None:
        return jnp.sum(loss), jnp.float32(loss.size)
    weight = mask.astype(jnp.float32)
    return jnp.sum(loss * weight), jnp.sum(weight)
