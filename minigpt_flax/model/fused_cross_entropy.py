"""The loss of logits that don't fit into a cache: each is read once for the loss, and once for its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


def one_pass_losses(
    bound: Callable[[Array], Array], logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]
) -> Float[Array, "B T"]:
    """`minigpt_flax.model.loss.token_losses` of ``bound(logits)``, for a device that waits for its memory.

    Otherwise XLA writes the bounded logits beside the others, as there are three readers: a largest one is looked for,
    exponentials are summed, the target's is picked; and the gradient needs them again. On an H200 ``speedrun`` with 64
    sequences spent 30 of 155 ms a step with these 13 GB (its profile's ``loop_multiply_fusion``,
    ``input_reduce_fusion`` and ``loop_add_fusion`` over f32[64,1024,50304]). Here one reduction has all three, a sum
    that is scaled anew whenever a larger logit comes (Milakov & Gimelshein 2018, arXiv:1805.02867), and the gradient
    starts at the logits again. The CPU is slower at three sums at once than at one after the other.

    It can be differentiated backwards as often as one likes, not forwards.

    Args:
        bound: What the logits go through, elementwise.
        logits: Unnormalised log-probabilities, float32.
        targets: The tokens that came.

    Returns:
        Nats, float32.
    """
    return _losses(bound, logits, targets)


def hits(logits: Float[Array, "B T V"], targets: Integer[Array, "B T"]) -> Bool[Array, "B T V"]:
    """Which logit is the target's. Its use has an elementwise gradient, where that of a gather is a scatter."""
    return targets.astype(jnp.int32)[..., None] == jnp.arange(logits.shape[-1])[None, None, :]


@jax.custom_vjp
def _reduced(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Logarithm of the sum of exponentials, and the target's logit."""

    def join(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        (most, total, hit), (most_2, total_2, hit_2) = one, other
        larger = jnp.maximum(most, most_2)
        return larger, total * jnp.exp(most - larger) + total_2 * jnp.exp(most_2 - larger), hit + hit_2

    hit = jnp.where(hits(logits, targets), logits, 0)
    start = tuple(jnp.asarray(x, logits.dtype) for x in (jnp.finfo(logits.dtype).min, 0, 0))
    most, total, hit = jax.lax.reduce((logits, jnp.ones_like(logits), hit), start, join, (logits.ndim - 1,))
    return most + jnp.log(total), hit


def _reduced_forward(logits: Array, targets: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    found = _reduced(logits, targets)
    return found, (logits, targets, found[0])


def _reduced_backward(kept: tuple[Array, ...], along: tuple[Array, Array]) -> tuple[Array, None]:
    logits, targets, logsumexp = kept
    of_sum, of_hit = (part[..., None] for part in along)
    return of_sum * jnp.exp(logits - logsumexp[..., None]) + jnp.where(hits(logits, targets), of_hit, 0), None


_reduced.defvjp(_reduced_forward, _reduced_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(bound: Callable[[Array], Array], logits: Array, targets: Array) -> Array:
    return _losses_forward(bound, logits, targets)[0]


def _losses_forward(
    bound: Callable[[Array], Array], logits: Array, targets: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    logsumexp, hit = _reduced(bound(logits), targets)
    return logsumexp - hit, (logits, targets, logsumexp)


def _losses_backward(
    bound: Callable[[Array], Array], kept: tuple[Array, Array, Array], along: Array
) -> tuple[Array, None]:
    logits, targets, logsumexp = kept
    # Behind the barrier these are others to the compiler, which would else keep the bounded ones of the forward pass.
    logits = jax.lax.optimization_barrier(logits)
    bounded, back = jax.vjp(bound, logits)
    return back(_reduced_backward((bounded, targets, logsumexp), (along, -along))[0])[0], None


_losses.defvjp(_losses_forward, _losses_backward)
