"""From the end of the residual stream to logits: a matrix, perhaps a bias, perhaps a bound."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.initializers import INITS
from minigpt_flax.model.linear import wide_product


def tanh(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """Bounds by a hyperbolic tangent, as Gemma 2 does (Riviere et al. 2024, arXiv:2408.00118)."""
    return bound * jnp.tanh(x / bound)


def algebraic(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """Bounds with longer tails: ``bound * x / sqrt(x^2 + bound^2)``, as modded-nanogpt does (Jordan et al. 2024)."""
    return bound * x * jax.lax.rsqrt(jnp.square(x) + bound**2)


SOFTCAPS: dict[str, Callable[[Array, float], Array]] = {f.__name__: f for f in (tanh, algebraic)}


class Head(nn.Module):
    """The matrix from features to logits, which may be the embedding's, and the bias of the logits."""

    config: ModelConfig

    @nn.compact
    def __call__(self, embedding: Float[Array, "V D"]) -> tuple[Float[Array, "D V"], Float[Array, " V"] | None]:
        """Returns the matrix, in the type that is computed in, and the bias if there is one."""
        config, shape = self.config, embedding.shape[::-1]
        matrix = embedding.T if config.tie_head else self.param("kernel", INITS[config.init_scheme].head, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:]) if config.head_bias else None
        return matrix.astype(config.dtype), bias


def logits_of(
    config: ModelConfig, matrix: Float[Array, "D V"], bias: Float[Array, " V"] | None, x: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Float32 logits of features, with their bias and their bound."""
    return bound_of(config)(unbounded_logits(matrix, bias, x))


def unbounded_logits(
    matrix: Float[Array, "D V"], bias: Float[Array, " V"] | None, x: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Float32 logits of features, with their bias."""
    logits = wide_product(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[1])
    return logits if bias is None else logits + bias[None, None].astype(logits.dtype)


def bound_of(config: ModelConfig) -> Callable[[Array], Array]:
    """What bounds the logits; what leaves them alone where nothing does."""
    if (bound := config.softcap) is None:
        return lambda logits: logits
    cap = SOFTCAPS[config.softcap_form]
    return lambda logits: cap(logits, bound)
