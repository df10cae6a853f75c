"""The memory of a model that writes: keys and values of what it has read, so that a token costs one token's work.

Each row of a batch has a window of its own, as many tokens as it has read. All write into the same place of a ring, so
that a row's window is what was written last, and a batch of windows of different lengths takes no scattered writes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from minigpt_flax.model.attention import attend, scaled
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import GPT, Block
from minigpt_flax.model.scan import unstack


class Parts(NamedTuple):
    """Parameters as they are needed token by token: cut apart once, not with every token."""

    outer: dict[str, Any]
    blocks: list[Any]  # one a layer


class Cache(NamedTuple):
    """What was read; arrays of a layer are separate, so that each is written in place.

    Attributes:
        keys: of each layer.
        values: of each layer.
        lengths: tokens that each row has read.
        slot: where in the ring the next token goes.
    """

    keys: list[Float[Array, "B K C H"]]
    values: list[Float[Array, "B K C H"]]
    lengths: Int[Array, " B"]
    slot: Int[Array, ""]


def cut(params: Mapping[str, Any]) -> Parts:
    """Cuts parameters apart by layers."""
    return Parts({name: leaf for name, leaf in params.items() if name != "blocks"}, unstack(params["blocks"]))


def read(
    config: ModelConfig, parts: Parts, tokens: Int[Array, "B P"], lengths: Int[Array, " B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads the beginning of every row in one pass.

    Args:
        config: The configuration that made the parameters.
        parts: The parameters.
        tokens: One row a window, from the left; what lies to the right of its end is not looked at.
        lengths: Tokens in each window, from 1 to P; P is at most ``config.context``.

    Returns:
        Logits of the token after each window, and the memory.
    """
    call = functools.partial(_call, config, parts)
    rows, positions = jnp.arange(tokens.shape[0]), jnp.arange(tokens.shape[1])
    x = call("embed", tokens, positions)
    keys, values = [], []
    for layer in range(config.layers):
        q, k, v = call("project", x, positions, layer=layer)
        keys.append(_ring(k, lengths, config.context))
        values.append(_ring(v, lengths, config.context))
        mixed = attend(q, k, v, drop=lambda weights: weights, scale=config.attention_scale)
        x = call("join", x, mixed, layer=layer)
    logits = call("read_out", x[rows, lengths - 1][:, None])[:, 0]
    return logits, Cache(keys, values, lengths, jnp.int32(tokens.shape[1] % config.context))


def read_one(
    config: ModelConfig, parts: Parts, cache: Cache, tokens: Int[Array, " B"]
) -> tuple[Float[Array, "B V"], Cache]:
    """Reads one more token in every row.

    Args:
        config: The configuration that made the parameters.
        parts: The parameters.
        cache: What the rows have read, each fewer than ``config.context`` tokens.
        tokens: The next of each row.

    Returns:
        Logits of the token after it, and the memory.
    """
    call = functools.partial(_call, config, parts)
    age = (cache.slot - jnp.arange(config.context)) % config.context  # 0 is the token that is read now
    seen = age[None] <= cache.lengths[:, None]
    # All but the attention works on tokens by themselves, so the rows pass as one sequence with a position each.
    x = call("embed", tokens[None], cache.lengths)
    keys, values = [], []
    for layer in range(config.layers):
        q, k, v = call("project", x, cache.lengths, layer=layer)
        keys.append(_write(cache.keys[layer], k[0], cache.slot))
        values.append(_write(cache.values[layer], v[0], cache.slot))
        mixed = attend_to_ring(q[0], keys[-1], values[-1], seen, config.attention_scale)
        x = call("join", x, mixed[None], layer=layer)
    return call("read_out", x)[0], Cache(keys, values, cache.lengths + 1, (cache.slot + 1) % config.context)


def _call(config: ModelConfig, parts: Parts, method: str, *args: Any, layer: int | None = None) -> Any:
    """Calls a method of the model, or of one of its blocks."""
    if layer is None:
        return GPT(config).apply({"params": parts.outer}, *args, method=method)
    return Block(config).apply({"params": parts.blocks[layer]}, *args, method=method)


def attend_to_ring(
    q: Float[Array, "B N H"],
    k: Float[Array, "B K C H"],
    v: Float[Array, "B K C H"],
    seen: Bool[Array, "B C"],
    scale: float | None = None,
) -> Float[Array, "B N H"]:
    """`attend` for one query a row, over the keys that it may see, in whatever order they lie.

    Args:
        q: Queries.
        k: Keys; K divides N.
        v: Values.
        seen: Which keys each row may see, at least one.
        scale: Of the products, as in `attend`.

    Returns:
        A mixture of values per query, in the type of ``v``.
    """
    batch, heads, size = q.shape
    q = scaled(q, scale).reshape(batch, k.shape[1], -1, size)
    scores = jnp.einsum("bkgh,bkch->bkgc", q, k).astype(jnp.float32)
    scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgc,bkch->bkgh", weights, v).reshape(batch, heads, size)


def _write(ring: Float[Array, "B K C H"], new: Float[Array, "B K H"], slot: Int[Array, ""]) -> Array:
    zero = jnp.int32(0)
    return jax.lax.dynamic_update_slice(ring, new[:, :, None], (zero, zero, slot, zero))


def _ring(x: Float[Array, "B P K H"], lengths: Int[Array, " B"], size: int) -> Float[Array, "B K C H"]:
    """Turns each row so that it ends in slot P - 1, whatever its length, and adds slots that nothing is in."""
    length = x.shape[1]
    source = (jnp.arange(length)[None] - (length - lengths)[:, None]) % length
    turned = jnp.take_along_axis(x, source[:, :, None, None], axis=1)
    return jnp.pad(turned.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, size - length), (0, 0)))
