"""The training loss: how surprising the next tokens were."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from minigpt_flax.model.fused_cross_entropy import hits, one_pass_losses

MOST_LOGITS = 1 << 26  # at once: 256 MiB of float32; the backward pass has two or three such arrays
LARGEST_SHARE = 1 / 6  # of an accelerator's memory that logits may take


def token_losses(logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]) -> Float[Array, "B T"]:
    """``-log softmax(logits)[target]`` of every token, in nats.

    Args:
        logits: Unnormalised log-probabilities, of any floating type; the arithmetic is float32.
        targets: The tokens that came.
    """
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(hits(logits, targets), logits, 0), axis=-1)


def total(
    losses: Float[Array, "B T"], mask: Bool[Array, "B T"] | Float[Array, "B T"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums losses over tokens.

    A sum and a count, not a mean: parts of a batch, on several devices or one after the other, then add up to the
    loss of the whole, whatever number of tokens each holds.

    Args:
        losses: Of every token.
        mask: Which tokens count, or with what weight. None means all.

    Returns:
        The sum in nats and the number (or total weight) of tokens, both float32.
    """
    if mask is None:
        return jnp.sum(losses), jnp.float32(losses.size)
    weight = mask.astype(jnp.float32)
    return jnp.sum(losses * weight), jnp.sum(weight)


def cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Integer[Array, "B T"],
    mask: Bool[Array, "B T"] | Float[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The `total` of `token_losses`."""
    return total(token_losses(logits, targets), mask)


def chunked_losses(
    read_out: Callable[[Float[Array, "B t D"]], Float[Array, "B t V"]],
    x: Float[Array, "B T D"],
    targets: Integer[Array, "B T"],
    chunk: int,
    losses_of: Callable[[Float[Array, "B t V"], Integer[Array, "B t"]], Float[Array, "B t"]] = token_losses,
) -> Float[Array, "B T"]:
    """`token_losses` without ever holding all logits: a chunk's are made, used, and made again in the backward pass.

    A chunk is a span of time of all sequences, not some of the sequences, so that a batch that is divided among devices
    stays so.

    Args:
        read_out: Features to logits.
        x: Features of every token.
        targets: The tokens that came.
        chunk: Tokens to read out at once, about: spans are equal and at least one token of each sequence.
        losses_of: What makes losses of logits and targets.

    Returns:
        Losses in nats, float32.
    """
    batch, length = targets.shape
    spans = -(-length // max(1, chunk // batch))
    if spans == 1:
        return losses_of(read_out(x), targets)
    width = -(-length // spans)

    def cut(a: Array) -> Array:
        padded = jnp.pad(a, ((0, 0), (0, spans * width - length), *[(0, 0)] * (a.ndim - 2)))
        return padded.reshape(batch, spans, width, *a.shape[2:]).swapaxes(0, 1)

    body = jax.checkpoint(lambda part: losses_of(read_out(part[0]), part[1]), prevent_cse=False)
    losses = jax.lax.map(body, (cut(x), cut(targets)))
    return losses.swapaxes(0, 1).reshape(batch, -1)[:, :length]


def loss_of_logits(bound: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """``(logits, targets) -> losses`` of logits that are to be bounded, in the form that is the fastest here."""
    if jax.default_backend() == "gpu":
        return functools.partial(one_pass_losses, bound)
    return lambda logits, targets: token_losses(bound(logits), targets)


def tokens_at_once(tokens: int, vocab_size: int, memory: int | None = None) -> int:
    """A size of chunk: all tokens where their logits are few, else as many as memory has room for.

    To make the logits a second time costs 4 ms of the 81 of a step of ``gpt2`` with 32 sequences on an H200, and small
    chunks keep it from working at full speed: all at once takes 69.

    >>> tokens_at_once(12 * 64, vocab_size=65), tokens_at_once(8 * 1024, vocab_size=50257)
    (768, 1335)
    >>> tokens_at_once(64 * 1024, vocab_size=50304, memory=100 << 30)
    65536

    Args:
        tokens: Of a batch.
        vocab_size: Logits of a token.
        memory: Bytes of the device's own memory. None means a device that works in the host's: `MOST_LOGITS` then.
    """
    most = MOST_LOGITS if memory is None else max(MOST_LOGITS, int(memory * LARGEST_SHARE) // 4)
    return tokens if tokens * vocab_size <= most else max(1, most // vocab_size)


def own_memory() -> int | None:
    """Bytes that JAX may take of a device's own memory; None where it doesn't say."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("bytes_limit")
