"""Feed-forward part of a block: project to the hidden width, apply an activation, project back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.initializers import INITS, normal
from minigpt_flax.model.linear import Dense


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415): ``x (1 + erf(x / sqrt(2))) / 2``.

    `jax.nn.gelu` computes ``erfc(-x / sqrt(2))`` instead of the sum, which loses no digits where that is near 0. This
    matters in bfloat16. In float32 the error of the sum is below 1e-6, PyTorch uses it too, and ``erfc`` takes three
    times as long on a CPU.
    """
    low_precision = jnp.finfo(x.dtype).bits < 32
    return jax.nn.gelu(x, approximate=False) if low_precision else 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def relu2(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Squared ReLU (So et al. 2021, Primer, arXiv:2109.08668): ``max(x, 0)^2``."""
    return jnp.square(jax.nn.relu(x))


class MlpType(NamedTuple):
    """One kind of MLP."""

    activation: Callable[[Array], Array]
    gated: bool  # whether the hidden features are multiplied by the activated output of a third matrix


MLPS: dict[str, MlpType] = {
    "gelu": MlpType(gelu, gated=False),  # exact, with erf: nanoGPT
    "gelu_tanh": MlpType(functools.partial(jax.nn.gelu, approximate=True), gated=False),  # GPT-2's `gelu_new`
    "swiglu": MlpType(jax.nn.silu, gated=True),  # Shazeer 2020, arXiv:2002.05202
    "relu2": MlpType(relu2, gated=False),
}


def hidden_size(config: ModelConfig) -> int:
    """Return the hidden width F: as configured, else 4 D, or 8 D / 3 rounded up to a multiple of 8 for gated MLPs.

    >>> hidden_size(ModelConfig(vocab_size=65, width=96))
    384
    >>> hidden_size(ModelConfig(vocab_size=65, width=96, mlp="swiglu"))
    256
    """
    if config.hidden is not None:
        return config.hidden
    return 8 * -(-config.width // 3) if MLPS[config.mlp].gated else 4 * config.width


class Mlp(nn.Module):
    """``down(activation(up(x)))``, or ``down(activation(gate(x)) * up(x))`` for gated MLPs."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Transform each token independently."""
        config = self.config
        row, bias, init = MLPS[config.mlp], config.bias, INITS[config.init_scheme]
        features, first = hidden_size(config), normal(init.first(config, config.width))
        up = Dense(features, bias, first, name="up")(x)
        if row.gated:
            up = row.activation(Dense(features, bias, first, name="gate")(x)) * up
        else:
            up = row.activation(up)
        return Dense(config.width, bias, normal(init.output(config)), name="down")(up)
