"""Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), with grouped heads and rotations where asked."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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

    def setup(self) -> None:
        """Names the parts."""
        config, size = self.config, self.config.head_size
        self.query = Dense(config.heads * size, config.bias, INIT_STDDEV)
        self.key = Dense(config.key_value_heads * size, config.bias, INIT_STDDEV)
        self.value = Dense(config.key_value_heads * size, config.bias, INIT_STDDEV)
        if config.qk_norm:
            self.query_norm, self.key_norm = Norm(config), Norm(config)
        self.weights_dropout = nn.Dropout(config.dropout)
        self.output = Dense(config.width, config.bias, self.residual_stddev)

    def __call__(self, x: Float[Array, "B T D"], *, deterministic: bool) -> Float[Array, "B T D"]:
        """Mixes information from earlier tokens into each token."""
        q, k, v = self.project(x, jnp.arange(x.shape[1]))
        drop = functools.partial(self.weights_dropout, deterministic=deterministic)
        return self.join(attend(q, k, v, drop=drop))

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, " T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Makes queries, keys and values of tokens at these positions: all that `attend` needs to know of them."""
        q, k, v = (
            part(x).reshape(*x.shape[:2], -1, self.config.head_size) for part in (self.query, self.key, self.value)
        )
        if self.config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        rotate = POSITIONS[self.config.position].rotate
        q, k = (rotate(a.swapaxes(1, 2), positions).swapaxes(1, 2) for a in (q, k))
        return q, k, v

    def join(self, mixed: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Takes what the heads found back to the residual stream."""
        return self.output(mixed.reshape(*mixed.shape[:2], self.config.width))
