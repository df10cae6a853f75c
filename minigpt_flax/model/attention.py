"""Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762), with grouped heads and rotary positions as options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minigpt_flax.model.attention_kernels import cudnn, differentiable_twice, tpu
from minigpt_flax.model.config import DTYPE_NAMES, ModelConfig
from minigpt_flax.model.document_mask import restart_positions
from minigpt_flax.model.dropout import Dropout
from minigpt_flax.model.initializers import INITS, normal
from minigpt_flax.model.linear import Dense, matmul_float32_out
from minigpt_flax.model.norm import Norm
from minigpt_flax.model.position import POSITIONS, rotate

MAX_LOGITS = "max_logits"  # collection of the largest scores of each head, computed if it is mutable


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    drop: Callable[[Array], Array] | None = None,
    documents: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """Attend causally: ``softmax(scale q k^T) v``, each query to the keys at its own and earlier positions.

    Query heads share key and value heads in groups of N / K neighbors (Ainslie et al. 2023, arXiv:2305.13245). The
    queries of one group become rows of one matrix, so both products are plain batched matrix products, and keys and
    values are never repeated. Softmax is computed in float32 for any dtype of ``q``.

    Args:
      q: queries.
      k: keys; K divides N.
      v: values.
      drop: dropout of the attention weights; None applies none.
      documents: document number of each token; a query attends only to keys of its own document. None means one
        document.
      scale: scale of the scores; None means ``1 / sqrt(H)``.

    Returns:
      A weighted mean of values per query, in the dtype of ``v``.
    """
    batch, length, heads, size = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    q = scale_queries(q, scale).reshape(batch, length, kv_heads, group, size).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch * kv_heads, group * length, size)
    k, v = (a.transpose(0, 2, 1, 3).reshape(batch * kv_heads, length, size) for a in (k, v))
    scores = matmul_float32_out(q, k.transpose(0, 2, 1)).reshape(batch * heads, length, length)
    mask = jnp.tril(jnp.ones((length, length), bool))[None]
    if documents is not None:
        mask = jnp.repeat(mask & (documents[:, :, None] == documents[:, None, :]), heads, axis=0)
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1).astype(v.dtype)
    weights = weights if drop is None else drop(weights)
    out = jnp.matmul(weights.reshape(batch * kv_heads, group * length, length), v)
    out = out.reshape(batch, kv_heads, group, length, size).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, size)


def max_logits(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    *,
    documents: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, " N"]:
    """Return the largest score of each query head over the batch, of the pairs that `attend` attends to.

    It takes as much memory as plain attention, and has no gradient.
    """
    length, group = q.shape[1], q.shape[2] // k.shape[2]
    q, k = (jax.lax.stop_gradient(a).transpose(0, 2, 1, 3) for a in (scale_queries(q, scale), k))
    scores = matmul_float32_out(q, jnp.repeat(k, group, axis=1).swapaxes(2, 3))
    mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
    if documents is not None:
        mask = mask & (documents[:, :, None] == documents[:, None, :])[:, None]
    return jnp.max(jnp.where(mask, scores, -jnp.inf), axis=(0, 2, 3))


def scale_queries(q: Float[Array, "*rows H"], scale: float | None) -> Float[Array, "*rows H"]:
    """Multiply queries by the scale of the scores; None means ``1 / sqrt(H)``."""
    return q / q.shape[-1] ** 0.5 if scale is None else q * scale


class Kernel(NamedTuple):
    """One implementation of `attend`."""

    attend: Callable[..., Array]
    backend: str | None  # the JAX backend that it requires; None means any
    dtypes: tuple[str, ...]  # supported dtypes
    drops: bool  # whether it supports dropout of the attention weights


ATTENTION: dict[str, Kernel] = {
    "plain": Kernel(attend, None, DTYPE_NAMES, drops=True),
    "cudnn": Kernel(differentiable_twice(cudnn, attend), "gpu", ("bfloat16",), drops=False),
    "tpu": Kernel(differentiable_twice(tpu, attend), "tpu", DTYPE_NAMES, drops=False),
}


class Attention(nn.Module):
    """Projections to queries, keys and values; a row of `ATTENTION`; and the output projection."""

    config: ModelConfig

    def setup(self) -> None:
        """Declare the submodules."""
        config, size = self.config, self.config.head_size
        init = INITS[config.init_scheme]
        first = normal(init.first(config, config.width))
        self.query = Dense(config.heads * size, config.bias, first)
        self.key = Dense(config.key_value_heads * size, config.bias, first)
        self.value = Dense(config.key_value_heads * size, config.bias, first)
        if config.qk_norm:
            self.query_norm, self.key_norm = (Norm(config, learned=config.qk_norm_scale) for _ in range(2))
        self.weights_dropout = Dropout(config.dropout, config.batch_axis)
        self.output = Dense(config.width, config.bias, normal(init.output(config)))

    def __call__(
        self, x: Float[Array, "B T D"], documents: Int[Array, "B T"] | None = None, *, deterministic: bool
    ) -> Float[Array, "B T D"]:
        """Attend from each token to the earlier tokens of its document."""
        config = self.config
        positions = jnp.arange(x.shape[1]) if documents is None else restart_positions(documents)
        drops = config.dropout > 0 and not deterministic
        drop = functools.partial(self.weights_dropout, deterministic=False) if drops else None
        q, k, v = self.project(x, positions)
        if self.is_mutable_collection(MAX_LOGITS) and not self.is_initializing():
            found = max_logits(q, k, documents=documents, scale=config.attention_scale)
            self.put_variable(MAX_LOGITS, MAX_LOGITS, found)
        attend = functools.partial(ATTENTION[config.attention].attend, scale=config.attention_scale)
        return self.attention_output(attend(q, k, v, drop=drop, documents=documents))

    def project(
        self, x: Float[Array, "B T D"], positions: Int[Array, " T"] | Int[Array, "B T"]
    ) -> tuple[Float[Array, "B T N H"], Float[Array, "B T K H"], Float[Array, "B T K H"]]:
        """Compute queries, keys and values of tokens at these positions: normalized and rotated, ready for `attend`."""
        q, k, v = (
            part(x).reshape(*x.shape[:2], -1, self.config.head_size) for part in (self.query, self.key, self.value)
        )
        if self.config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        if (frequencies := POSITIONS[self.config.position].frequencies) is not None:
            rotation = functools.partial(rotate, frequencies=frequencies, base=self.config.rope_base)
            positions = positions[:, None] if positions.ndim == 2 else positions  # shared by all heads
            q, k = (rotation(a.swapaxes(1, 2), positions).swapaxes(1, 2) for a in (q, k))
        return q, k, v

    def attention_output(self, heads: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
        """Project the heads' outputs to the residual stream."""
        return self.output(heads.reshape(*heads.shape[:2], self.config.width))
