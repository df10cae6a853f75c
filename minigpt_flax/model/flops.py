"""Floating-point operations of the model, counted from its own parameters.

Only products of matrices count, a multiplication and an addition per weight and token: what is elementwise depends on
how the compiler fuses it and no peak of a device is about it. Nothing recomputed counts either, so that a step under
rematerialisation is as much work as one without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.layout import layout

BACKWARD = 2  # times the forward pass: each product has a gradient for either factor
MULTIPLIED = ("matrix", "head")  # the roles whose parameters every token is multiplied with


def multiplied_parameters(config: ModelConfig, params: Mapping[str, Any]) -> int:
    """Number of weights that a token is multiplied with: all matrices and the head, also one that is the embedding.

    Looking up an embedding, biases and norms are no products of matrices.

    Args:
        config: The configuration of the parameters.
        params: A tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of their shapes.
    """
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(layout(params)), strict=True)
    count = sum(math.prod(leaf.shape) for leaf, axes in leaves if axes.role in MULTIPLIED)
    return count + config.tie_head * config.vocab_size * config.width


def forward_flops(config: ModelConfig, params: Mapping[str, Any], length: int, *, causal: bool = True) -> int:
    """Operations of the forward pass over one sequence.

    Args:
        config: The configuration of the parameters.
        params: A tree like that of `minigpt_flax.model.gpt.init_params`, of arrays or of their shapes.
        length: Tokens T of the sequence.
        causal: Whether a query counts with the keys that it may see, (T + 1) / 2 on average, as FlashAttention's
            authors do; or with all T, as nanoGPT and the appendix of PaLM (Chowdhery et al. 2022, arXiv:2204.02311)
            do, also where half of the products are masked away.
    """
    pairs = length * (length + 1) // 2 if causal else length**2
    scores_and_mixture = 2 * 2 * config.layers * config.width * pairs
    return 2 * multiplied_parameters(config, params) * length + scores_and_mixture


def training_flops(config: ModelConfig, params: Mapping[str, Any], length: int, *, causal: bool = True) -> int:
    """Operations of a forward and a backward pass over one sequence, see `forward_flops`."""
    return (1 + BACKWARD) * forward_flops(config, params, length, causal=causal)
