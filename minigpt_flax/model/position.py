"""Where in the sequence a token stands: a learned table, a rotation of queries and keys, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from minigpt_flax.model.linear import wide_dtype


def full(pairs: int, base: float, dtype: DTypeLike) -> Float[Array, " pairs"]:
    """The angle per position of each pair of features, as in RoPE's paper: ``base^(-i / pairs)``."""
    return base ** (-jnp.arange(pairs, dtype=dtype) / pairs)


def half_truncated(pairs: int, base: float, dtype: DTypeLike) -> Float[Array, " pairs"]:
    """Angles from 1 down to ``1 / base`` for the first half of the pairs; the others stay, and tell no positions.

    modded-nanogpt's (Jordan et al. 2024); ``base`` is about the length of the context there.
    """
    turned = pairs // 2
    return jnp.pad(base ** -jnp.linspace(0, 1, turned, dtype=dtype), (0, pairs - turned))


def rotate(
    x: Float[Array, "*batch T H"],
    positions: Int[Array, "*#some T"],
    angles: Callable[..., Array] = full,
    base: float = 10000.0,
) -> Float[Array, "*batch T H"]:
    """Rotary position embedding, RoPE (Su et al. 2021, arXiv:2104.09864).

    Features i and i + H/2 are the two coordinates of a point, turned by ``position`` times an angle, ``base^(-2i/H)``
    in the paper. The product of a query and a key then depends on the distance of their positions alone. The paper
    pairs neighbours (2i, 2i + 1); pairing halves, as GPT-NeoX and Llama do, only renames the features.

    Args:
        x: Queries or keys, with an even H.
        positions: The position of each of the T rows; axes before that are those of ``x``, of size 1 where shared.
        angles: ``(pairs, base, dtype) -> angle per position of each pair``.
        base: Handed to ``angles``.

    Returns:
        The turned vectors, of the same lengths.
    """
    half = x.shape[-1] // 2
    wide = wide_dtype(x.dtype)  # bfloat16 has no positions beyond 256
    angle = jnp.multiply.outer(positions.astype(wide), angles(half, base, wide))
    angle = jnp.expand_dims(angle, tuple(range(x.ndim - angle.ndim)))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Position(NamedTuple):
    """One way of telling positions."""

    table: bool  # whether a learned vector per position is added to the token's embedding
    angles: Callable[..., Array] | None  # by which queries and keys are turned; None leaves them


POSITIONS: dict[str, Position] = {
    "learned": Position(table=True, angles=None),
    "rope": Position(table=False, angles=full),
    "half_rope": Position(table=False, angles=half_truncated),
    "none": Position(table=False, angles=None),
}
