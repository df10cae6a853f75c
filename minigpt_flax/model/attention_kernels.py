"""Attention by kernels of one kind of device: the weights of all pairs of tokens are never in memory.

They compute what `minigpt_flax.model.attention.attend` does, without dropping weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cudnn(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    documents: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """FlashAttention by NVIDIA's cuDNN, on bfloat16 (Dao et al. 2022, arXiv:2205.14135)."""
    mask = None if documents is None else (documents[:, :, None] == documents[:, None, :])[:, None]
    how = {"mask": mask, "scale": scale, "is_causal": True, "implementation": "cudnn"}
    return jax.nn.dot_product_attention(q, k, v, **how)


def tpu(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    documents: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """FlashAttention by the Pallas kernel that JAX has for TPUs."""
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5 if scale is None else scale
    k, v = (jnp.repeat(a, group, axis=2) for a in (k, v))  # the kernel knows no groups
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    segments = None if documents is None else SegmentIds(documents, documents)
    return flash_attention(q, k, v, segment_ids=segments, causal=True, sm_scale=scale).swapaxes(1, 2)
