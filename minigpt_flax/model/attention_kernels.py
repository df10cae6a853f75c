"""Attention kernels of one kind of device: the attention weights of a sequence are never materialized in memory.

They compute the same function as `minigpt_flax.model.attention.attend`, without dropout. A kernel comes with a kernel
for its gradient only; `differentiable_twice` adds second derivatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
    """FlashAttention in cuDNN on NVIDIA GPUs, in bfloat16 (Dao et al. 2022, arXiv:2205.14135)."""
    mask = None if documents is None else (documents[:, :, None] == documents[:, None, :])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, is_causal=True, implementation="cudnn")


def tpu(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    documents: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N H"]:
    """FlashAttention as JAX's Pallas kernel for TPUs."""
    from jax.experimental.pallas.ops.tpu.flash_attention import SegmentIds, flash_attention

    group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5 if scale is None else scale
    k, v = (jnp.repeat(a, group, axis=2) for a in (k, v))  # the kernel does not support grouped heads
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    segments = None if documents is None else SegmentIds(documents, documents)
    return flash_attention(q, k, v, segment_ids=segments, causal=True, sm_scale=scale).swapaxes(1, 2)


def differentiable_twice(kernel: Callable[..., Array], reference: Callable[..., Array]) -> Callable[..., Array]:
    """Give a kernel second derivatives, in reverse mode, computed by a reference implementation.

    Hessian-vector products (for the sharpness, or Sophia) differentiate the gradient. The loss and its gradient cost
    the same as with the kernel alone, so only the steps that need Hessian-vector products are slower. Like every
    function with a custom gradient it has no forward-mode derivative: use the ``vjp`` of ``grad``.

    Args:
      kernel: takes the arguments of `minigpt_flax.model.attention.attend` except ``drop``.
      reference: the same function, differentiable any number of times.

    Returns:
      The function ``kernel``, which also accepts a ``drop`` of None.
    """

    def bound(attend: Callable[..., Array], scale: float | None, documents: Array | None) -> Callable[..., Array]:
        return lambda q, k, v: attend(q, k, v, documents=documents, scale=scale)

    def reference_gradient(scale: float | None, q: Array, k: Array, v: Array, documents: Any, cotangent: Array) -> Any:
        return jax.vjp(bound(reference, scale, documents), q, k, v)[1](cotangent)

    def custom_vjp(function: Callable[..., Any]) -> Any:
        return jax.custom_vjp(function, nondiff_argnums=(0,))

    @custom_vjp
    def forward(scale: float | None, q: Array, k: Array, v: Array, documents: Array | None) -> Any:
        out, pullback = jax.vjp(bound(kernel, scale, documents), q, k, v)
        return out, jax.tree.leaves(pullback)  # the residuals of the gradient's kernel

    @custom_vjp
    def backward(
        scale: float | None, saved: Any, q: Array, k: Array, v: Array, documents: Any, cotangent: Array
    ) -> Any:
        # Traced again, because the tree structure of a pullback is valid only within its own trace.
        pullback = jax.eval_shape(lambda *qkv: jax.vjp(bound(kernel, scale, documents), *qkv)[1], q, k, v)
        return jax.tree.unflatten(jax.tree.structure(pullback), saved)(cotangent)

    def second_derivative(scale: float | None, inputs: tuple[Any, ...], directions: Any) -> tuple[Any, ...]:
        q, k, v, documents, cotangent = inputs
        gradient = lambda q, k, v, cotangent: reference_gradient(scale, q, k, v, documents, cotangent)
        *of_qkv, of_cotangent = jax.vjp(gradient, q, k, v, cotangent)[1](directions)
        return None, *of_qkv, None, of_cotangent

    # The residuals depend on q, k and v too; `second_derivative` covers that dependence.
    forward.defvjp(
        lambda scale, *inputs: (forward(scale, *inputs), inputs),
        lambda scale, inputs, directions: (*reference_gradient(scale, *inputs, cotangent=directions[0]), None),
    )
    backward.defvjp(
        lambda scale, saved, *inputs: (backward(scale, saved, *inputs), inputs),
        second_derivative,
    )

    @custom_vjp
    def attention(scale: float | None, q: Array, k: Array, v: Array, documents: Array | None) -> Array:
        return kernel(q, k, v, documents=documents, scale=scale)

    def attention_forward(scale: float | None, *inputs: Any) -> tuple[Array, Any]:
        out, saved = forward(scale, *inputs)
        return out, (saved, *inputs)

    attention.defvjp(
        attention_forward,
        lambda scale, saved, cotangent: (*backward(scale, *saved, cotangent), None),
    )

    @functools.wraps(kernel)
    def attend(
        q: Array,
        k: Array,
        v: Array,
        *,
        drop: None = None,
        documents: Array | None = None,
        scale: float | None = None,
    ) -> Array:
        del drop
        return attention(scale, q, k, v, documents)

    return attend
