"""Activations of every part of a model in a forward pass, for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import GPT, Block
from minigpt_flax.model.scan import unstack


def activations(
    config: ModelConfig, params: Mapping[str, Any], tokens: Integer[Array, "B T"]
) -> dict[str, Float[Array, "*sizes"]]:
    """Compute the activations of a forward pass without dropout and document mask.

    Args:
      config: configuration of ``params``.
      params: tree like that of `minigpt_flax.model.gpt.init_params`.
      tokens: token ids.

    Returns:
      ``embedding`` (the start of the stream), ``attention`` and ``mlp`` (outputs of the branches before they are
      scaled, stacked over layers), ``stream`` (after the last block) and ``logits``.
    """
    outer = {name: leaf for name, leaf in params.items() if name != "blocks"}

    def model(method: Any, *args: Any) -> Any:
        return GPT(config).apply({"params": outer}, *args, method=method)

    def block(params: Any, method: Any, *args: Any) -> Any:
        return Block(config).apply({"params": params}, *args, method=method)

    embedding = x = model("embed", tokens, jnp.arange(tokens.shape[1]))
    branches: dict[str, list[Array]] = {"attention": [], "mlp": []}
    for layer in unstack(params["blocks"]):
        for name, branch in (("attention", _attention), ("mlp", _mlp)):
            out = block(layer, branch, x)
            x = block(layer, "add", x, out)
            branches[name].append(out)
    stacked = {name: jnp.stack(outs) for name, outs in branches.items()}
    return {"embedding": embedding, **stacked, "stream": x, "logits": model("unembed", x)}


def _attention(block: Block, x: Array) -> Array:
    return block.attention(block.norm_1(x), deterministic=True)


def _mlp(block: Block, x: Array) -> Array:
    return block.mlp(block.norm_2(x))
