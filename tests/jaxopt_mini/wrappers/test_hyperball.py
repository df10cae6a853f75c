"""Hyperball: norms of weights and steps, against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adam, apply_updates, hyperball, sgd
from jaxopt_mini.transforms import scale
from tests.harness import LAYOUT, SHAPES, normal, run


def test_follows_the_formula():
    """Twenty steps of momentum on one matrix, in NumPy: only the direction of the inner step counts."""
    grads = normal({"w": (6, 4)}, 1, 20)
    params = normal({"w": (6, 4)}, 0)
    got, _ = jax.jit(lambda p, g: run(hyperball(sgd(7.0, momentum=0.9), learning_rate=0.05), p, g))(params, grads)
    p, m = np.float64(params["w"]), 0.0
    radius = np.linalg.norm(p)
    for g in np.float64(grads["w"]):
        m = g + 0.9 * m
        q = p - 0.05 * radius * m / np.linalg.norm(m)
        p = radius * q / np.linalg.norm(q)
    np.testing.assert_allclose(got["w"], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)])
def test_every_layer_keeps_its_norm_and_the_rest_is_left_alone(dtype, tolerance):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), normal(SHAPES, 0))
    grads = jax.tree.map(lambda leaf: leaf.astype(dtype), normal(SHAPES, 1, 50))
    new, _ = jax.jit(lambda p, g: run(hyperball(adam(0.01), layout=LAYOUT), p, g))(params, grads)
    plain, _ = jax.jit(lambda p, g: run(adam(0.01), p, g))(params, grads)
    norms = [np.linalg.norm(np.float64(tree["blocks"]["kernel"]), axis=(1, 2)) for tree in (new, params)]
    np.testing.assert_allclose(*norms, rtol=tolerance)
    for leaf in ("embed", "scale"):
        np.testing.assert_array_equal(new[leaf], plain[leaf])
    assert np.abs(np.float64(new["blocks"]["kernel"]) - np.float64(params["blocks"]["kernel"])).mean() > 0.01


def test_a_matrix_that_begins_at_zero_leaves_zero():
    tx, params = hyperball(scale(-1.0)), {"w": jnp.zeros((2, 2))}
    updates, _ = tx.update({"w": jnp.ones((2, 2))}, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], -jnp.ones((2, 2)))


def test_a_step_of_zero_stays():
    tx, params = hyperball(scale(0.0)), normal({"w": (3, 2)}, 0)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(apply_updates(params, updates)["w"], params["w"], rtol=1e-6)


def test_the_rate_follows_a_schedule():
    tx = hyperball(sgd(1.0), learning_rate=lambda count: 0.1 * (count == 0).astype(jnp.float32))
    params = {"w": jnp.eye(2)}
    grads = {"w": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    first, state = tx.update(grads, tx.init(params), params)
    second, _ = tx.update(grads, state, params)
    assert jnp.abs(first["w"]).max() > 0.05
    np.testing.assert_allclose(second["w"], 0.0, atol=1e-6)


def test_unknown_roles_are_rejected():
    with pytest.raises(ValueError, match="'matrices'.*choose from matrix, embedding, head, vector"):
        hyperball(sgd(0.1), roles=("matrices",))
