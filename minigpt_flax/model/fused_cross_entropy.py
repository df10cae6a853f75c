"""Cross-entropy of logits that do not fit into the cache: one pass over them for the loss, one for the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


def one_pass_losses(
    cap: Callable[[Array], Array], logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]
) -> Float[Array, "B T"]:
    """Compute `minigpt_flax.model.loss.token_losses` of ``cap(logits)`` on a device limited by memory bandwidth.

    Otherwise XLA writes the capped logits to memory too, because they have three readers: the maximum, the sum of
    exponentials and the target's logit; and the gradient needs them again. On an H200 the preset ``speedrun`` with 64
    sequences spent 30 of 155 ms per step on these 13 GB (``loop_multiply_fusion``, ``input_reduce_fusion`` and
    ``loop_add_fusion`` over f32[64,1024,50304] in its profile). Here one reduction computes all three, with a sum that
    is rescaled whenever the maximum grows (online softmax, Milakov & Gimelshein 2018, arXiv:1805.02867), and the
    gradient starts from the logits again. On a CPU, three sums at once are slower than three passes.

    It is differentiable any number of times in reverse mode, but not in forward mode.

    Args:
      cap: elementwise function of the logits.
      logits: unnormalized log-probabilities, float32.
      targets: target tokens.

    Returns:
      Losses in nats, float32.
    """
    return _losses(cap, logits, targets)


def is_target(logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]) -> Bool[Array, "B T V"]:
    """Return whether each logit is the target's.

    Selecting the target with it has an elementwise gradient; that of a gather is a scatter.
    """
    return targets.astype(jnp.int32)[..., None] == jnp.arange(logits.shape[-1])[None, None, :]


@jax.custom_vjp
def _reduced(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the logarithm of the sum of exponentials, and the target's logit."""

    def combine(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        (max_a, sum_a, target_a), (max_b, sum_b, target_b) = a, b
        largest = jnp.maximum(max_a, max_b)
        return largest, sum_a * jnp.exp(max_a - largest) + sum_b * jnp.exp(max_b - largest), target_a + target_b

    target = jnp.where(is_target(logits, targets), logits, 0)
    start = tuple(jnp.asarray(x, logits.dtype) for x in (jnp.finfo(logits.dtype).min, 0, 0))
    operands = (logits, jnp.ones_like(logits), target)
    largest, total, target = jax.lax.reduce(operands, start, combine, (logits.ndim - 1,))
    return largest + jnp.log(total), target


def _reduced_forward(logits: Array, targets: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    out = _reduced(logits, targets)
    return out, (logits, targets, out[0])


def _reduced_backward(saved: tuple[Array, ...], cotangents: tuple[Array, Array]) -> tuple[Array, None]:
    logits, targets, logsumexp = saved
    of_sum, of_target = (part[..., None] for part in cotangents)
    return of_sum * jnp.exp(logits - logsumexp[..., None]) + jnp.where(is_target(logits, targets), of_target, 0), None


_reduced.defvjp(_reduced_forward, _reduced_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(cap: Callable[[Array], Array], logits: Array, targets: Array) -> Array:
    return _losses_forward(cap, logits, targets)[0]


def _losses_forward(
    cap: Callable[[Array], Array], logits: Array, targets: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    logsumexp, target = _reduced(cap(logits), targets)
    return logsumexp - target, (logits, targets, logsumexp)


def _losses_backward(
    cap: Callable[[Array], Array], saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, None]:
    logits, targets, logsumexp = saved
    # Without the barrier, the compiler recognizes the capped logits of the forward pass and keeps them in memory.
    logits = jax.lax.optimization_barrier(logits)
    capped, pullback = jax.vjp(cap, logits)
    return pullback(_reduced_backward((capped, targets, logsumexp), (cotangent, -cotangent))[0])[0], None


_losses.defvjp(_losses_forward, _losses_backward)
