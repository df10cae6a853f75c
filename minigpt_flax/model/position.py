"""Where in the sequence a token stands: a learned table, a rotation of queries and keys, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from minigpt_flax.model.linear import wide_dtype

ROPE_BASE = 10000.0  # the longest wavelength is 2 pi times this many tokens


def rotate(x: Float[Array, "*batch T H"], positions: Int[Array, "*#some T"]) -> Float[Array, "*batch T H"]:
    """Rotary position embedding, RoPE (Su et al. 2021, arXiv:2104.09864).

    Features i and i + H/2 are the two coordinates of a point, turned by the angle ``position * ROPE_BASE^(-2i/H)``. The
    product of a query and a key then depends on the distance of their positions alone. The paper pairs neighbours
    (2i, 2i + 1); pairing halves, as GPT-NeoX and Llama do, only renames the features.

    Args:
        x: Queries or keys, with an even H.
        positions: The position of each of the T rows; axes before that are those of ``x``, of size 1 where shared.

    Returns:
        The turned vectors, of the same lengths.
    """
    half = x.shape[-1] // 2
    wide = wide_dtype(x.dtype)  # bfloat16 has no positions beyond 256
    frequency = ROPE_BASE ** (-jnp.arange(half, dtype=wide) / half)
    angle = jnp.multiply.outer(positions.astype(wide), frequency)
    angle = jnp.expand_dims(angle, tuple(range(x.ndim - angle.ndim)))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _leave(x: Array, positions: Array) -> Array:
    """No rotation."""
    del positions
    return x


class Position(NamedTuple):
    """One way of telling positions."""

    table: bool  # whether a learned vector per position is added to the token's embedding
    rotate: Callable[[Array, Array], Array]  # applied to queries and keys


POSITIONS: dict[str, Position] = {
    "learned": Position(table=True, rotate=_leave),
    "rope": Position(table=False, rotate=rotate),
    "none": Position(table=False, rotate=_leave),
}
