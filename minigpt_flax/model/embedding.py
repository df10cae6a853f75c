"""Embedding lookup, on one device or on a mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Int, Integer


def look_up(
    table: Float[Array, "V D"], indices: Integer[Array, "*sizes"] | Int[Array, "*sizes"]
) -> Float[Array, "*sizes D"]:
    """Return rows of an embedding table.

    On a mesh the table is gathered before the lookup, as FSDP gathers every weight before use, so that the rows are
    sharded like the indices: by batch. Otherwise they would be sharded by feature, like the table, and the compiler can
    only get from there to batches by replicating all activations ("involuntary full rematerialization").

    Args:
      table: embeddings.
      indices: row numbers.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and all(kind == AxisType.Auto for kind in mesh.axis_types):
        table = jax.lax.with_sharding_constraint(table, PartitionSpec())
    return jnp.take(table, indices, axis=0)
