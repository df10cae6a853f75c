"""The normalisations: what is divided out of each feature vector before a learned scale is put in."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.linear import wide_dtype


def layernorm(x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """Centres and divides by the standard deviation (Ba, Kiros and Hinton 2016, arXiv:1607.06450).

    ``(x - mean) / sqrt(var + eps)`` with the biased variance.
    """
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return rmsnorm(centred, eps)


def rmsnorm(x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows D"]:
    """Divides by the root mean square (Zhang and Sennrich 2019, arXiv:1910.07467): ``x / sqrt(mean(x^2) + eps)``."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


NORMS: dict[str, Callable[..., Array]] = {f.__name__: f for f in (layernorm, rmsnorm)}


class Norm(nn.Module):
    """A row of `NORMS` over the last axis, then a learned scale and, where the configuration has biases, a bias.

    Neither follows where ``learned`` is false.
    """

    config: ModelConfig
    learned: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        """Normalises the last axis of ``x``, in float32 whatever the type of ``x``."""
        shape, wide = x.shape[-1:], wide_dtype(x.dtype)
        y = NORMS[self.config.norm](x.astype(wide), self.config.norm_eps)
        if self.learned:
            y = y * _over_last(self.param("scale", nn.initializers.ones, shape), y)
        if self.learned and self.config.bias and self.config.norm_bias:
            y = y + _over_last(self.param("bias", nn.initializers.zeros, shape), y)
        return y.astype(x.dtype)


def _over_last(vector: Array, like: Array) -> Array:
    return jnp.expand_dims(vector.astype(like.dtype), tuple(range(like.ndim - 1)))
