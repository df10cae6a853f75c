"""Snapshots: found by name, of one structure from init on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adam, chain, clip_by_norm, snapshot, states
from jaxopt_mini.tree import norm

GRADS = {"w": jnp.array([3.0, 4.0], jnp.bfloat16)}


def test_records_the_updates_as_they_are_at_its_place():
    tx = chain(snapshot("before", norm), clip_by_norm(1.0), snapshot("after", norm))

    def step(state, _):
        _, state = tx.update(GRADS, state)
        return state, states.get(state, "after")

    state, after = jax.lax.scan(step, tx.init(GRADS), length=2)
    np.testing.assert_allclose(after, 1.0, rtol=1e-2)
    assert states.get(state, "before") == 5.0


def test_measures_nothing_before_the_first_step():
    assert states.get(snapshot("size", norm).init(GRADS), "size") == 0.0


def test_may_record_trees_and_python_numbers():
    tx = snapshot("seen", lambda tree: {"copy": tree, "leaves": len(tree), "half": 0.5})
    wide = {"w": jnp.array([3.0, 4.0])}
    state = tx.init(GRADS)
    _, new = jax.jit(tx.update)(wide, state)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    seen = states.get(new, "seen")
    assert (seen["leaves"], seen["half"], seen["copy"]["w"].dtype) == (1, 0.5, jnp.bfloat16)


def test_two_of_one_name_are_told_apart_by_path():
    tx = chain(snapshot("size", norm), adam(0.1), snapshot("size", norm))
    with pytest.raises(KeyError, match="ambiguous.*0/SnapshotState.*2/SnapshotState"):
        states.get(tx.init(GRADS), "size")
