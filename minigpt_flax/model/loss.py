"""Training loss: the cross-entropy of next-token predictions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from minigpt_flax.model.fused_cross_entropy import is_target, one_pass_losses

MAX_LOGITS = 1 << 26  # per chunk: 256 MiB of float32; the backward pass needs two or three such arrays
MAX_MEMORY_SHARE = 1 / 6  # fraction of an accelerator's memory that the logits may take


def token_losses(logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]) -> Float[Array, "B T"]:
    """Return ``-log softmax(logits)[target]`` of every token, in nats.

    Args:
      logits: unnormalized log-probabilities, of any floating dtype; computed in float32.
      targets: target tokens.
    """
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_target(logits, targets), logits, 0), axis=-1)


def sum_losses(
    losses: Float[Array, "B T"], mask: Bool[Array, "B T"] | Float[Array, "B T"] | None = None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum losses over tokens.

    A sum and a count, not a mean: the results of micro-batches, or of parts of a batch on several devices, add up to
    the loss of the whole batch, whatever number of tokens each has.

    Args:
      losses: loss of every token.
      mask: tokens that count, or their weights; None means all.

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
    """Return `sum_losses` of `token_losses`."""
    return sum_losses(token_losses(logits, targets), mask)


def chunked_losses(
    unembed: Callable[[Float[Array, "B t D"]], Float[Array, "B t V"]],
    x: Float[Array, "B T D"],
    targets: Integer[Array, "B T"],
    chunk: int,
    losses_of: Callable[[Float[Array, "B t V"], Integer[Array, "B t"]], Float[Array, "B t"]] = token_losses,
) -> Float[Array, "B T"]:
    """Compute `token_losses` without storing all logits: each chunk's logits are recomputed in the backward pass.

    A chunk is a range of positions in all sequences, not a subset of the sequences, so a batch that is sharded over
    devices stays sharded.

    Args:
      unembed: features to logits.
      x: features of every token.
      targets: target tokens.
      chunk: approximate number of tokens per chunk: chunks are equal, with at least one token of each sequence.
      losses_of: ``(logits, targets) -> losses``.

    Returns:
      Losses in nats, float32.
    """
    batch, length = targets.shape
    chunks = -(-length // max(1, chunk // batch))
    if chunks == 1:
        return losses_of(unembed(x), targets)
    width = -(-length // chunks)

    def split(a: Array) -> Array:
        padded = jnp.pad(a, ((0, 0), (0, chunks * width - length), *[(0, 0)] * (a.ndim - 2)))
        return padded.reshape(batch, chunks, width, *a.shape[2:]).swapaxes(0, 1)

    body = jax.checkpoint(lambda part: losses_of(unembed(part[0]), part[1]), prevent_cse=False)
    losses = jax.lax.map(body, (split(x), split(targets)))
    return losses.swapaxes(0, 1).reshape(batch, -1)[:, :length]


def losses_of_logits(cap: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """Return ``(logits, targets) -> losses`` for logits before the soft cap, in the fastest form for this device."""
    if jax.default_backend() == "gpu":
        return functools.partial(one_pass_losses, cap)
    return lambda logits, targets: token_losses(cap(logits), targets)


def tokens_per_chunk(tokens: int, vocab_size: int, memory: int | None = None) -> int:
    """Choose the chunk size: all tokens if they have few logits, otherwise as many as fit in memory.

    Recomputing the logits costs 4 ms of the 81 ms per step of ``gpt2`` with 32 sequences on an H200, and small chunks
    lower its throughput further: with all logits at once a step takes 69 ms.

    >>> tokens_per_chunk(12 * 64, vocab_size=65), tokens_per_chunk(8 * 1024, vocab_size=50257)
    (768, 1335)
    >>> tokens_per_chunk(64 * 1024, vocab_size=50304, memory=100 << 30)
    65536

    Args:
      tokens: number of tokens in the batch.
      vocab_size: logits per token.
      memory: bytes of the device's own memory; None means a device that uses host memory, limited to `MAX_LOGITS`.
    """
    most = MAX_LOGITS if memory is None else max(MAX_LOGITS, int(memory * MAX_MEMORY_SHARE) // 4)
    return tokens if tokens * vocab_size <= most else max(1, most // vocab_size)


def device_memory() -> int | None:
    """Return the bytes that JAX may use of a device's own memory; None if the device does not report it."""
    stats = jax.local_devices()[0].memory_stats()
    return None if not stats else stats.get("bytes_limit")
