"""Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), with grouped heads and rotations where asked."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.linear import INIT_STDDEV, Dense
from minigpt_flax.model.norm import Norm
from minigpt_flax.model.position import POSITIONS


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    drop: Callable[[Array], Array],
) -> Float[Array, "B T N H"]:
    """Averages for each query the values at its own and earlier positions: ``softmax(q k^T / sqrt(H)) v``.

    Query heads share key and value heads in groups of N / K neighbours (Ainslie et al. 2023, arXiv:2305.13245). The
    queries of one group become rows of one matrix, so both products are plain batched matrix products and keys and
    values are never repeated. Softmax is float32 whatever the type of ``q``.

    Args:
        q: Queries.
        k: Keys; K divides N.
        v: Values.
        drop: Applied to the attention weights.

    Returns:
        A mixture of values per query, in the type of ``v``.
    """
    batch, length, heads, size = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    q = (q / size**0.5).reshape(batch, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch * kv_heads, group * length, size)
    k, v = (a.transpose(0, 2, 1, 3).reshape(batch * kv_heads, length, size) for a in (k, v))
    scores = jnp.matmul(q, k.transpose(0, 2, 1)).astype(jnp.float32).reshape(batch * heads, length, length)
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool))[None], scores, -jnp.inf)
    weights = drop(jax.nn.softmax(scores, axis=-1).astype(v.dtype))
    out = jnp.matmul(weights.reshape(batch * kv_heads, group * length, length), v)
    out = out.reshape(batch, kv_heads, group, length, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, size)


class Attention(nn.Module):
    """Projections to queries, keys and values, `attend`, and the projection back to the residual stream."""

    config: ModelConfig
    residual_stddev: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool) -> Float[Array, "B T D"]:
        """Mixes information from earlier tokens into each token."""
        config = self.config
        q = self._heads("query", config.heads, x)
        k = self._heads("key", config.key_value_heads, x)
        v = self._heads("value", config.key_value_heads, x)
        if config.qk_norm:
            q, k = Norm(config, name="query_norm")(q), Norm(config, name="key_norm")(k)
        rotate, positions = POSITIONS[config.position].rotate, jnp.arange(x.shape[1])
        q, k = (rotate(a.swapaxes(1, 2), positions).swapaxes(1, 2) for a in (q, k))
        drop = nn.Dropout(config.dropout, deterministic=deterministic, name="weights_dropout")
        y = attend(q, k, v, drop=drop).reshape(x.shape)
        return Dense(config.width, config.bias, self.residual_stddev, name="output")(y)

    def _heads(self, name: str, heads: int, x: Array) -> Array:
        size = self.config.head_size
        y = Dense(heads * size, self.config.bias, INIT_STDDEV, name=name)(x)
        return y.reshape(*x.shape[:2], heads, size)
