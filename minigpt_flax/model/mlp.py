"""The feed-forward part of a block: up to a hidden width, an activation, and down again."""

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
from minigpt_flax.model.initializers import INITS
from minigpt_flax.model.linear import Dense


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415): ``x (1 + erf(x / sqrt(2))) / 2``.

    `jax.nn.gelu` has ``erfc(-x / sqrt(2))`` in place of the sum, which loses no digits where that is near 0. With the
    few of bfloat16 that counts. In float32 the sum is off by less than 1e-6, PyTorch has it too, and ``erfc`` takes
    three times as long on a CPU.
    """
    narrow = jnp.finfo(x.dtype).bits < 32
    return jax.nn.gelu(x, approximate=False) if narrow else 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def relu2(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The squared rectifier (So et al. 2021, Primer, arXiv:2109.08668): ``max(x, 0)^2``."""
    return jnp.square(jax.nn.relu(x))


class MlpRow(NamedTuple):
    """One kind of feed-forward layer."""

    activation: Callable[[Array], Array]
    gated: bool  # whether the activated output of a third matrix multiplies the hidden features


MLPS: dict[str, MlpRow] = {
    "gelu": MlpRow(gelu, gated=False),  # by erf: nanoGPT
    "gelu_tanh": MlpRow(functools.partial(jax.nn.gelu, approximate=True), gated=False),  # GPT-2's `gelu_new`
    "swiglu": MlpRow(jax.nn.silu, gated=True),  # Shazeer 2020, arXiv:2002.05202
    "relu2": MlpRow(relu2, gated=False),
}


def hidden_size(config: ModelConfig) -> int:
    """Returns F: as configured, else 4 D, or for gated rows 8 D / 3 rounded up to a multiple of 8.

    >>> hidden_size(ModelConfig(vocab_size=65, width=96))
    384
    >>> hidden_size(ModelConfig(vocab_size=65, width=96, mlp="swiglu"))
    256
    """
    if config.hidden is not None:
        return config.hidden
    return 8 * -(-config.width // 3) if MLPS[config.mlp].gated else 4 * config.width


class Mlp(nn.Module):
    """``down(activation(up(x)))``, or for gated rows ``down(activation(gate(x)) * up(x))``."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Transforms each token by itself."""
        row, bias, init = MLPS[self.config.mlp], self.config.bias, INITS[self.config.init_scheme]
        features = hidden_size(self.config)
        up = Dense(features, bias, init.first, name="up")(x)
        if row.gated:
            up = row.activation(Dense(features, bias, init.first, name="gate")(x)) * up
        else:
            up = row.activation(up)
        return Dense(self.config.width, bias, init.output(self.config.layers), name="down")(up)
