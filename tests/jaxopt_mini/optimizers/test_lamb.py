"""Specific to LAMB: the length of a step, layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adam, lamb
from tests.harness import SHAPES, normal


@pytest.mark.parametrize("keywords", [{}, {"bias_correction": False}])
def test_a_step_is_a_fixed_share_of_each_layer(keywords):
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1)
    params["blocks"]["kernel"] *= jnp.array([1.0, 100.0]).reshape(2, 1, 1)
    tx = lamb(0.1, **keywords)
    updates, _ = tx.update(grads, tx.init(params), params)
    for axes, name in (((1, 2), "kernel"), (1, "bias")):
        size, step = (np.linalg.norm(tree["blocks"][name], axis=axes) for tree in (params, updates))
        np.testing.assert_allclose(step, 0.1 * size, rtol=1e-5)


def test_largest_norm():
    params = jnp.array([30.0, 40.0])
    tx = lamb(0.1, max_norm=10.0)
    assert abs(np.linalg.norm(tx.update(params, tx.init(params), params)[0]) - 1.0) < 1e-5


def test_a_tensor_of_zeros_moves_as_under_adam():
    params, grads = jnp.zeros(3), normal((3,), 0)
    updates = [tx.update(grads, tx.init(params), params)[0] for tx in (lamb(0.1), adam(0.1, eps=1e-6))]
    np.testing.assert_array_equal(*updates)


def test_without_correction_it_counts_its_steps_all_the_same():
    tx, grads = lamb(0.1, bias_correction=False, b1=0.5, b2=0.75, eps=0.0), jnp.float32(2.0)
    _, state = tx.update(grads, tx.init(grads), grads)
    assert jax.tree.map(float, state[0][:3]) == (1.0, 1.0, 1.0)
