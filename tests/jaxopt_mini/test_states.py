"""Access to the fields of states."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import adam, adamw, chain, clip_by_norm, partition, states
from jaxopt_mini.transforms import scale, trace

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
TX = chain(clip_by_norm(1.0), adamw(lambda count: 0.1))


def test_finds_a_field_a_type_and_field_an_entry_and_a_path():
    state = TX.init(PARAMS)
    assert states.get(state, "mu") is state[1][0].mu
    assert states.get(state, "ScaleByAdamState.nu") is state[1][0].nu
    assert states.get(state, "mu/w") is state[1][0].mu["w"]
    assert states.get(state, "1/0/ScaleByAdamState.count") is state[1][0].count
    assert states.get(state, "factor") == 1.0


def test_an_ambiguous_name_lists_the_paths():
    state = TX.init(PARAMS)
    with pytest.raises(KeyError) as error:
        states.get(state, "count")
    assert "1/0/ScaleByAdamState.count, 1/2/ScaleByScheduleState.count" in str(error.value)
    for path in states.get_all(state, "count"):
        assert states.get(state, path) == 0


def test_a_missing_name_lists_what_there_is():
    with pytest.raises(KeyError, match="'momentum' is not in this state.*ClipByNormState.norm.*ScaleByAdamState.mu"):
        states.get(TX.init(PARAMS), "momentum")


def test_looks_into_masks_partitions_and_states_of_optax():
    ours = partition({"a": trace(0.9), "b": scale(1.0)}, {"w": "a", "b": "b"})
    found = states.get(ours.init(PARAMS), "trace")
    np.testing.assert_array_equal(found["w"], jnp.zeros((3, 2)))
    assert isinstance(found["b"], optax.MaskedNode)
    theirs = optax.inject_hyperparams(optax.adam)(learning_rate=0.5).init(PARAMS)
    assert states.get(theirs, "learning_rate") == 0.5


def test_bytes_are_those_of_the_state():
    assert states.bytes_per_parameter(scale(1.0), PARAMS) == 0
    assert states.bytes_per_parameter(trace(0.9), PARAMS) == 4
    assert states.bytes_per_parameter(trace(0.9, accumulator_dtype="bfloat16"), PARAMS) == 2
    assert states.bytes_per_parameter(adam(0.1), PARAMS) == 8 + 4 / 8  # and an int32 over 8 entries
