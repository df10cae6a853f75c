"""Language-model head: final features to logits, with an optional bias and an optional soft cap."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.initializers import INITS, normal
from minigpt_flax.model.linear import matmul_float32_out, scaled


def tanh(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """Cap with a hyperbolic tangent, as Gemma 2 does (Riviere et al. 2024, arXiv:2408.00118)."""
    return bound * jnp.tanh(x / bound)


def algebraic(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """Cap with heavier tails: ``bound * x / sqrt(x^2 + bound^2)``, as modded-nanogpt does (Jordan et al. 2024)."""
    return bound * x * jax.lax.rsqrt(jnp.square(x) + bound**2)


SOFTCAPS: dict[str, Callable[[Array, float], Array]] = {f.__name__: f for f in (tanh, algebraic)}


class Head(nn.Module):
    """The matrix from features to logits, which may be tied to the embedding, and the bias of the logits."""

    config: ModelConfig

    @nn.compact
    def __call__(self, embedding: Float[Array, "V D"]) -> tuple[Float[Array, "D V"], Float[Array, " V"] | None]:
        """Return the matrix, in the computation dtype, and the bias or None."""
        config, shape = self.config, embedding.shape[::-1]
        matrix = embedding.T if config.tie_head else self.param("kernel", normal(INITS[config.init_scheme].head), shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:]) if config.head_bias else None
        return matrix.astype(config.dtype), bias


def logits_of(
    config: ModelConfig, matrix: Float[Array, "D V"], bias: Float[Array, " V"] | None, x: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Return float32 logits of features, with bias and soft cap."""
    return softcap_of(config)(uncapped_logits(config, matrix, bias, x))


def uncapped_logits(
    config: ModelConfig, matrix: Float[Array, "D V"], bias: Float[Array, " V"] | None, x: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Return float32 logits of features, with bias and without soft cap."""
    x = scaled(x, config.logit_scale)  # the features, which are fewer than the logits
    logits = matmul_float32_out(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], matrix.shape[1])
    return logits if bias is None else logits + bias[None, None].astype(logits.dtype)


def softcap_of(config: ModelConfig) -> Callable[[Array], Array]:
    """Return the soft cap of the logits, the identity if the configuration has none."""
    if (bound := config.softcap) is None:
        return lambda logits: logits
    cap = SOFTCAPS[config.softcap_form]
    return lambda logits: cap(logits, bound)
