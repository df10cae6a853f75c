"""KV cache: past keys and values, so that decoding a token costs one forward pass of one token.

Each row of a batch has its own window and length. All rows write to the same slot of a ring buffer, so a row's window
is the most recent slots, and a batch of windows of different lengths needs no scattered writes. Of a model that was
trained with a document mask, each row attends only to the current document, which an end-of-text token begins.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minigpt_flax.model.attention import attend, scale_queries
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.document_mask import restart_positions
from minigpt_flax.model.gpt import GPT, Block, documents_of
from minigpt_flax.model.scan import unstack


class SplitParams(NamedTuple):
    """Parameters split by layer once, instead of once per token."""

    outer: dict[str, Any]
    blocks: list[Any]  # one tree per layer


class Cache(NamedTuple):
    """Keys and values of past tokens; each layer has its own arrays, so that each is updated in place.

    Attributes:
      keys: one array per layer.
      values: one array per layer.
      lengths: number of tokens in each row's window, or in the current document of the window; the position of the next
        token.
      slot: ring-buffer slot of the next token.
    """

    keys: list[Float[Array, "B K C H"]]
    values: list[Float[Array, "B K C H"]]
    lengths: Int[Array, " B"]
    slot: Int[Array, ""]


def split_layers(params: Mapping[str, Any]) -> SplitParams:
    """Split parameters by layer."""
    return SplitParams({name: leaf for name, leaf in params.items() if name != "blocks"}, unstack(params["blocks"]))


def prefill(
    config: ModelConfig, params: SplitParams, tokens: Int[Array, "B P"], lengths: Int[Array, " B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Process the prompt of every row in one pass.

    Args:
      config: configuration of the parameters.
      params: the split parameters.
      tokens: one window per row, left-aligned; tokens after its end are ignored.
      lengths: number of tokens of each window, from 1 to P; P is at most ``config.context``.

    Returns:
      Logits of the token after each window, and the cache.
    """
    call = functools.partial(_call, config, params)
    rows, documents = jnp.arange(tokens.shape[0]), documents_of(config, tokens)
    positions = jnp.arange(tokens.shape[1]) if documents is None else restart_positions(documents)
    x = call("embed", tokens, positions)
    keys, values = [], []
    for layer in range(config.layers):
        q, k, v = call("project", x, positions, layer=layer)
        keys.append(_ring(k, lengths, config.context))
        values.append(_ring(v, lengths, config.context))
        heads = attend(q, k, v, drop=lambda weights: weights, documents=documents, scale=config.attention_scale)
        x = call("after_attention", x, heads, layer=layer)
    logits = call("unembed", x[rows, lengths - 1][:, None])[:, 0]
    lengths = lengths if documents is None else positions[rows, lengths - 1] + 1
    return logits, Cache(keys, values, lengths, jnp.int32(tokens.shape[1] % config.context))


def decode(
    config: ModelConfig, params: SplitParams, cache: Cache, tokens: Int[Array, " B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Process one more token in every row.

    Args:
      config: configuration of the parameters.
      params: the split parameters.
      cache: cache of the rows, each with fewer than ``config.context`` tokens.
      tokens: the next token of each row.

    Returns:
      Logits of the token after it, and the updated cache.
    """
    call = functools.partial(_call, config, params)
    age = (cache.slot - jnp.arange(config.context)) % config.context  # 0 is the current token
    lengths = cache.lengths if config.end_of_text is None else jnp.where(tokens == config.end_of_text, 0, cache.lengths)
    mask = age[None] <= lengths[:, None]
    # Everything except attention works per token, so the rows are processed as one sequence, each with its position.
    x = call("embed", tokens[None], lengths)
    keys, values = [], []
    for layer in range(config.layers):
        q, k, v = call("project", x, lengths, layer=layer)
        keys.append(_write(cache.keys[layer], k[0], cache.slot))
        values.append(_write(cache.values[layer], v[0], cache.slot))
        heads = attend_to_cache(q[0], keys[-1], values[-1], mask, config.attention_scale)
        x = call("after_attention", x, heads[None], layer=layer)
    return call("unembed", x)[0], Cache(keys, values, lengths + 1, (cache.slot + 1) % config.context)


def _call(config: ModelConfig, params: SplitParams, method: str, *args: Any, layer: int | None = None) -> Any:
    """Call a method of the model, or of one of its blocks."""
    if layer is None:
        return GPT(config).apply({"params": params.outer}, *args, method=method)
    return Block(config).apply({"params": params.blocks[layer]}, *args, method=method)


def attend_to_cache(
    q: Float[Array, "B N H"],
    k: Float[Array, "B K C H"],
    v: Float[Array, "B K C H"],
    mask: Bool[Array, "B C"],
    scale: float | None = None,
) -> Float[Array, "B N H"]:
    """Attend from one query per row to the cached keys that its mask selects, in any order.

    Args:
      q: queries.
      k: keys; K divides N.
      v: values.
      mask: the keys that each row attends to, at least one.
      scale: scale of the scores, as in `attend`.

    Returns:
      A weighted mean of values per query, in the dtype of ``v``.
    """
    batch, heads, size = q.shape
    q = scale_queries(q, scale).reshape(batch, k.shape[1], -1, size)
    scores = jnp.einsum("bkgh,bkch->bkgc", q, k).astype(jnp.float32)
    scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgc,bkch->bkgh", weights, v).reshape(batch, heads, size)


def _write(ring: Float[Array, "B K C H"], new: Float[Array, "B K H"], slot: Int[Array, ""]) -> Array:
    zero = jnp.int32(0)
    return jax.lax.dynamic_update_slice(ring, new[:, :, None], (zero, zero, slot, zero))


def _ring(x: Float[Array, "B P K H"], lengths: Int[Array, " B"], size: int) -> Float[Array, "B K C H"]:
    """Rotate each row so that it ends in slot P - 1 whatever its length, and append empty slots."""
    length = x.shape[1]
    source = (jnp.arange(length)[None] - (length - lengths)[:, None]) % length
    rotated = jnp.take_along_axis(x, source[:, :, None, None], axis=1)
    return jnp.pad(rotated.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, size - length), (0, 0)))
