"""Position encodings: a learned embedding, rotary embeddings of queries and keys, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from minigpt_flax.model.linear import wide_dtype


def rope_frequencies(pairs: int, base: float, dtype: DTypeLike) -> Float[Array, " pairs"]:
    """Return the frequencies of RoPE's paper: ``base^(-i / pairs)``, in radians per position."""
    return base ** (-jnp.arange(pairs, dtype=dtype) / pairs)


def half_rope_frequencies(pairs: int, base: float, dtype: DTypeLike) -> Float[Array, " pairs"]:
    """Return frequencies from 1 to ``1 / base`` for the first half of the pairs and 0 for the other half.

    From modded-nanogpt (Jordan et al. 2024), where ``base`` is about the context length. Pairs of frequency 0 are not
    rotated and carry no position.
    """
    rotated = pairs // 2
    return jnp.pad(base ** -jnp.linspace(0, 1, rotated, dtype=dtype), (0, pairs - rotated))


def rotate(
    x: Float[Array, "*batch T H"],
    positions: Int[Array, "*#some T"],
    frequencies: Callable[..., Array] = rope_frequencies,
    base: float = 10000.0,
) -> Float[Array, "*batch T H"]:
    """Rotary position embedding, RoPE (Su et al. 2021, arXiv:2104.09864).

    Features i and i + H/2 are the coordinates of a point that is rotated by ``position`` times a frequency,
    ``base^(-2i/H)`` in the paper. The product of a query and a key then depends only on the distance of their
    positions. The paper pairs neighbors (2i, 2i + 1); pairing halves, as GPT-NeoX and Llama do, only reorders the
    features.

    Args:
      x: queries or keys, with an even H.
      positions: position of each of the T rows; leading axes match those of ``x``, or have size 1.
      frequencies: ``(pairs, base, dtype) -> angle per position of each pair``.
      base: passed to ``frequencies``.

    Returns:
      The rotated vectors, with unchanged norms.
    """
    half = x.shape[-1] // 2
    wide = wide_dtype(x.dtype)  # bfloat16 can't represent all integers above 256
    angle = jnp.multiply.outer(positions.astype(wide), frequencies(half, base, wide))
    angle = jnp.expand_dims(angle, tuple(range(x.ndim - angle.ndim)))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class PositionEncoding(NamedTuple):
    """One kind of position encoding."""

    table: bool  # whether a learned vector per position is added to the token embedding
    frequencies: Callable[..., Array] | None  # of the rotation of queries and keys; None means no rotation


POSITIONS: dict[str, PositionEncoding] = {
    "learned": PositionEncoding(table=True, frequencies=None),
    "rope": PositionEncoding(table=False, frequencies=rope_frequencies),
    "half_rope": PositionEncoding(table=False, frequencies=half_rope_frequencies),
    "none": PositionEncoding(table=False, frequencies=None),
}
