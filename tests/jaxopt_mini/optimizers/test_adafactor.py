"""Specific to Adafactor: which axes are factored, and that stacks are not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import ParamLayout, adafactor, states
from tests.harness import normal, permissive


@pytest.mark.parametrize(
    "shape", [(), (200,), (130, 140), (140, 130), (130, 130), (127, 500), (3, 140, 130), (130, 3, 200)], ids=str
)
def test_state_has_optax_shapes(shape):
    """The kernel of one layer; and of a stack, where the layers are fewer than rows and columns."""
    params = {"blocks": jnp.zeros(shape)}
    with permissive():
        expected = jax.tree.map(jnp.shape, optax.adafactor(1e-3).init(params))
    assert jax.tree.map(jnp.shape, adafactor(1e-3).init(params)) == expected


def test_many_layers_are_not_taken_for_rows():
    layout = ParamLayout("matrix", (0,), (1,), (2,))
    factors = adafactor(1e-3, min_dim_size_to_factor=2, layout=layout).init(jnp.zeros((9, 4, 3)))[0]
    assert (factors.v_row.shape, factors.v_col.shape, factors.v.shape) == ((9, 3), (9, 4), (1,))


def test_a_second_moment_of_rank_one_is_kept_whole():
    square = jnp.outer(jnp.array([1.0, 4.0, 9.0]), jnp.array([1.0, 16.0]))
    grads, words = jnp.sqrt(square), {"multiply_by_parameter_scale": False, "clipping_threshold": None}
    params = jnp.zeros((3, 2))
    updates = []
    for factored in (True, False):
        tx = adafactor(1.0, min_dim_size_to_factor=2, factored=factored, **words)
        updates.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_allclose(*updates, rtol=1e-5)


def test_takes_a_fraction_of_adams_memory():
    assert states.bytes_per_parameter(adafactor(1e-3), {"w": jnp.zeros((1024, 1024))}) < 0.01


def test_steps_are_relative_to_the_weights_of_each_layer():
    """Weights ten times larger move ten times as far, also within a stack, which Optax has one scale for."""
    kernels = jnp.stack([normal((4, 3), 0), 10 * normal((4, 3), 0)])
    params = {"blocks": {"kernel": kernels, "scale": jnp.ones((2, 3))}}  # two axes: a scale for each of two layers
    grads = jax.tree.map(lambda p: jnp.stack([normal(p.shape[1:], 1)] * 2), params)

    def lengths(tx):
        updates, _ = tx.update(grads, tx.init(params), params)
        return np.linalg.norm(updates["blocks"]["kernel"], axis=(1, 2))

    one, ten = lengths(adafactor(0.1))
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-5)
    with permissive():
        one, ten = lengths(optax.adafactor(0.1))
    np.testing.assert_allclose(ten, one, rtol=1e-5)
