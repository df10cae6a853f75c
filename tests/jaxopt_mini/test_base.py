"""The protocol of transformations."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import apply_updates, base
from tests.harness import normal, permissive

SHAPES = {"w": (3, 2), "b": (2,)}


def test_the_types_are_those_of_optax():
    assert base.GradientTransformation is optax.GradientTransformation
    assert isinstance(base.identity(), optax.GradientTransformationExtraArgs)
    assert base.identity().init({}) == optax.EmptyState()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_applies_updates_like_optax(dtype):
    params, updates = normal(SHAPES, 0, dtype=dtype), normal(SHAPES, 1)
    with permissive():
        expected = optax.apply_updates(params, updates)
    got = apply_updates(params, updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-2 if dtype != jnp.float32 else 1e-6)


def test_low_precision_is_rounded_once():
    # 0.00390625 + 2^-17 is just above half a step of bfloat16 at 1; rounding the update first would lose it.
    update = jnp.float32(2**-8 + 2**-17)
    assert apply_updates(jnp.bfloat16(1.0), update) == 1 + 2**-7
    assert apply_updates(jnp.bfloat16(1.0), update.astype(jnp.bfloat16)) == 1


def test_none_leaves_a_parameter_as_it_is():
    got = apply_updates({"w": jnp.ones(2), "b": jnp.ones(2)}, {"w": None, "b": jnp.ones(2)})
    np.testing.assert_array_equal(got["w"], 1.0)
    np.testing.assert_array_equal(got["b"], 2.0)


def test_integers_are_rejected():
    with pytest.raises(ValueError, match="int32"):
        base.identity().init({"w": jnp.zeros(2, jnp.int32)})


def test_missing_parameters_are_reported():
    assert base.require_params({}, "decay") == {}
    with pytest.raises(ValueError, match=r"decay needs the parameters: call update\(updates, state, params\)"):
        base.require_params(None, "decay")


def test_stateless_keeps_the_state_and_ignores_unknown_extra_args():
    tx = base.stateless(lambda updates, params: jax.tree.map(jnp.negative, updates))
    updates, state = tx.update({"w": jnp.ones(1)}, tx.init({}), value=1.0)
    assert updates["w"] == -1
    assert state == optax.EmptyState()
