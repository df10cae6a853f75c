"""Floating-point operations of the model, counted from its own parameters.

Only matrix products count: one multiplication and one addition per weight and token. The cost of elementwise operations
depends on how the compiler fuses them, and a device's peak FLOP/s does not include them. Recomputation does not count
either, so a step with activation checkpointing has as many operations as one without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.layout import layout

BACKWARD = 2  # relative to the forward pass: each product has a gradient for either factor
MULTIPLIED = ("matrix", "head")  # roles of the parameters that every token is multiplied by


def multiplied_parameters(config: ModelConfig, params: Mapping[str, Any]) -> int:
    """Count the weights that a token is multiplied by: all matrices, and the head even if it is the embedding.

    Embedding lookups, biases and norms are not matrix products.

    Args:
      config: configuration of the parameters.
      params: tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of shapes.
    """
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(layout(params)), strict=True)
    count = sum(math.prod(leaf.shape) for leaf, axes in leaves if axes.role in MULTIPLIED)
    return count + config.tie_head * config.vocab_size * config.width


def forward_flops(config: ModelConfig, params: Mapping[str, Any], length: int, *, causal: bool = True) -> int:
    """Count the operations of a forward pass over one sequence.

    Args:
      config: configuration of the parameters.
      params: tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of shapes.
      length: tokens T of the sequence.
      causal: whether to count only the unmasked keys of each query, (T + 1) / 2 on average, as the authors of
        FlashAttention do; or all T, as nanoGPT and the appendix of PaLM (Chowdhery et al. 2022, arXiv:2204.02311) do,
        where half of the products are masked away.
    """
    pairs = length * (length + 1) // 2 if causal else length**2
    attention = 2 * 2 * config.layers * config.width * pairs
    return 2 * multiplied_parameters(config, params) * length + attention


def training_flops(config: ModelConfig, params: Mapping[str, Any], length: int, *, causal: bool = True) -> int:
    """Count the operations of a forward and a backward pass over one sequence, see `forward_flops`."""
    return (1 + BACKWARD) * forward_flops(config, params, length, causal=causal)
