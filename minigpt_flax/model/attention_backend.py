"""Choice of the attention kernel: the fastest that the device supports and that computes correct results there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from minigpt_flax.errors import check_name
from minigpt_flax.model.attention import ATTENTION, Kernel, attend
from minigpt_flax.model.config import ModelConfig

AUTO = "auto"
TOLERANCE = {
    "float32": 1e-2,
    "bfloat16": 5e-2,
}  # of outputs and gradients of order 1; a wrong kernel exceeds it by far


def choose_attention(config: ModelConfig, name: str = AUTO) -> tuple[ModelConfig, str]:
    """Put a row of ``ATTENTION`` into a configuration; fall back to ``plain`` if the requested kernel is unusable.

    Args:
      config: configuration of the model.
      name: a row, or ``auto`` for the kernel of this device.

    Returns:
      The configuration with its kernel, and the reason for a fallback; empty if there was none.

    Raises:
      UserError: there is no such row.
    """
    check_name(name, (AUTO, *ATTENTION), "attention")
    kernels = {name: kernel for name, kernel in ATTENTION.items() if kernel.backend is not None}
    available = [name for name, kernel in kernels.items() if kernel.backend == jax.default_backend()]
    requested = next(iter(available), None) if name == AUTO else name
    if requested not in kernels:
        return config, ""
    reason = fallback_reason(kernels[requested], config)
    return (config, f"{requested} {reason}") if reason else (dataclasses.replace(config, attention=requested), "")


def fallback_reason(kernel: Kernel, config: ModelConfig) -> str:
    """Return why a model cannot use a kernel here, from the kernel's requirements and a trial run; empty if it can."""
    backend = jax.default_backend()
    if kernel.backend not in (None, backend):
        return f"requires a {kernel.backend}, this is a {backend}"
    if config.dtype not in kernel.dtypes:
        return f"supports {' or '.join(kernel.dtypes)}, not {config.dtype}"
    if config.dropout and not kernel.drops:
        return f"does not support dropout, which is {config.dropout:g}"
    try:
        difference = deviation(kernel, config)
    except Exception as error:  # a compiler, a driver or a missing library can raise anything
        return f"fails here: {' '.join(str(error).split())[:120] or type(error).__name__}"
    return "" if difference <= TOLERANCE[config.dtype] else f"computes wrong results here, by {difference:.2g}"


def deviation(kernel: Kernel, config: ModelConfig) -> float:
    """Return the largest difference from `attend`, in outputs and gradients of one random sequence of full length."""
    length, size = config.context, config.head_size
    heads = (config.heads, config.key_value_heads, config.key_value_heads)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (
        jax.random.normal(key, (1, length, n, size), config.dtype) for key, n in zip(keys[:3], heads, strict=True)
    )
    documents = None if config.end_of_text is None else (jnp.arange(length) > length // 3).astype(jnp.int32)[None]
    direction = jax.random.normal(keys[3], q.shape, config.dtype)

    def out_and_gradients(attention, q, k, v, documents, direction):
        f = lambda *qkv: attention(*qkv, documents=documents, scale=config.attention_scale)
        out, pullback = jax.vjp(f, q, k, v)
        return [a.astype(jnp.float32) for a in (out, *pullback(direction))]

    # Passed as arguments: XLA evaluates constants at compile time, on the host and slowly.
    inputs = q, k, v, documents, direction
    found, expected = (jax.jit(out_and_gradients, static_argnums=0)(f, *inputs) for f in (kernel.attend, attend))
    return max(
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(1, jnp.max(jnp.abs(b))))
        for a, b in zip(found, expected, strict=True)
    )
