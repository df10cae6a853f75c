"""Normalization layers."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.linear import wide_dtype


def layernorm(x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """Layer normalization (Ba, Kiros and Hinton 2016, arXiv:1607.06450): ``(x - mean) / sqrt(var + eps)``.

    The variance is the biased one.
    """
    return rmsnorm(x - jnp.mean(x, axis=-1, keepdims=True), eps)


def rmsnorm(x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """RMS normalization (Zhang and Sennrich 2019, arXiv:1910.07467): ``x / sqrt(mean(x^2) + eps)``."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


NORMS: dict[str, Callable[..., Array]] = {f.__name__: f for f in (layernorm, rmsnorm)}


class Norm(nn.Module):
    """A row of `NORMS` over the last axis, then a learned scale and, if the configuration has biases, a learned bias.

    With ``learned=False`` there is neither.
    """

    config: ModelConfig
    learned: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalize the last axis of ``x``, computed in float32 for any dtype of ``x``."""
        shape, wide = x.shape[-1:], wide_dtype(x.dtype)
        y = NORMS[self.config.norm](x.astype(wide), self.config.norm_eps)
        if self.learned:
            y = y * _over_last(self.param("scale", nn.initializers.ones, shape), y)
        if self.learned and self.config.bias and self.config.norm_bias:
            y = y + _over_last(self.param("bias", nn.initializers.zeros, shape), y)
        return y.astype(x.dtype)


def _over_last(vector: Array, like: Array) -> Array:
    return jnp.expand_dims(vector.astype(like.dtype), tuple(range(like.ndim - 1)))
