"""Embedding lookup, on one device or on a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Int, Integer


def look_up(
    table: Float[Array, "V D"], indices: Integer[Array, "*sizes"] | Int[Array, "*sizes"]
) -> Float[Array, "*sizes D"]:
    """The rows of an embedding table.

    On a mesh the table is gathered before the lookup, as FSDP gathers every weight before its use, so that the rows are
    sharded as the indices are: by batch. Otherwise they are sharded by feature, as the table is, and the compiler knows
    no way from there to batches but to replicate all activations ("involuntary full rematerialization").

    Args:
        table: Embeddings.
        indices: Numbers of rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and all(kind == AxisType.Auto for kind in mesh.axis_types):
        table = jax.lax.with_sharding_constraint(table, PartitionSpec())
    return jnp.take(table, indices, axis=0)
