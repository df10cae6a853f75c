"""Which attention a run computes with: the fastest that the device has and that gives the right numbers there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.model.attention import ATTENTION, Row, attend
from minigpt_flax.model.config import ModelConfig

AUTO = "auto"
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}  # of outputs and gradients about 1 large; a wrong kernel is far off


def choose_attention(config: ModelConfig, word: str = AUTO) -> tuple[ModelConfig, str]:
    """Puts a row of ``ATTENTION`` into a configuration; one that cannot be used gives way to ``plain``.

    Args:
        config: What the model will be.
        word: A row, or ``auto`` for the one of this device.

    Returns:
        The configuration with its row, and why it is another than the wanted one; empty if it is not.

    Raises:
        UserError: If there is no such row.
    """
    known = (AUTO, *ATTENTION)
    if word not in known:
        raise UserError(f"no attention is called {word!r}{nearest(word, known)}; there are: {', '.join(known)}")
    kernels = {name: row for name, row in ATTENTION.items() if row.backend is not None}
    own = [name for name, row in kernels.items() if row.backend == jax.default_backend()]
    wanted = next(iter(own), None) if word == AUTO else word
    if wanted not in kernels:
        return config, ""
    why = what_hinders(kernels[wanted], config)
    return (config, f"{wanted} {why}") if why else (dataclasses.replace(config, attention=wanted), "")


def what_hinders(row: Row, config: ModelConfig) -> str:
    """Says why the model cannot use a row here: by what the row says of itself, then by trying it; empty if nothing."""
    backend = jax.default_backend()
    if row.backend not in (None, backend):
        return f"needs a {row.backend}, this is a {backend}"
    if config.dtype not in row.dtypes:
        return f"computes in {' or '.join(row.dtypes)}, not in {config.dtype}"
    if config.dropout and not row.drops:
        return f"can't drop out weights, dropout is {config.dropout:g}"
    try:
        off = deviation(row, config)
    except Exception as error:  # whatever a compiler, a driver or a missing library raises
        return f"fails here: {' '.join(str(error).split())[:120] or type(error).__name__}"
    return "" if off <= TOLERANCE[config.dtype] else f"is wrong here, by {off:.2g}"


def deviation(row: Row, config: ModelConfig) -> float:
    """The largest difference to `attend`, in outputs and gradients of one random sequence as long as the context."""
    length, size = config.context, config.head_size
    heads = (config.heads, config.key_value_heads, config.key_value_heads)
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (
        jax.random.normal(key, (1, length, n, size), config.dtype) for key, n in zip(keys[:3], heads, strict=True)
    )
    documents = None if config.end_of_text is None else (jnp.arange(length) > length // 3).astype(jnp.int32)[None]
    direction = jax.random.normal(keys[3], q.shape, config.dtype)

    def out_and_gradients(mix, q, k, v, documents, direction):
        out, back = jax.vjp(lambda *qkv: mix(*qkv, documents=documents, scale=config.attention_scale), q, k, v)
        return [a.astype(jnp.float32) for a in (out, *back(direction))]

    # All are arguments: what a program knows when it is compiled, XLA computes then, on the host and slowly.
    given = q, k, v, documents, direction
    here, there = (jax.jit(out_and_gradients, static_argnums=0)(mix, *given) for mix in (row.attend, attend))
    return max(
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(1, jnp.max(jnp.abs(b)))) for a, b in zip(here, there, strict=True)
    )
