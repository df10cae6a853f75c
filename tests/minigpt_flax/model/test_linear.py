"""Tests for `minigpt_flax.model.linear`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.linear import linear


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_values_and_gradients_are_those_of_a_product(shape):
    x = normal(*shape)
    w = normal(5, 4, seed=1)

    def through(product):
        return jax.jit(jax.value_and_grad(lambda x, w: jnp.sin(product(x, w)).sum(), argnums=(0, 1)))(x, w)

    chex.assert_trees_all_close(through(linear), through(jnp.matmul), rtol=1e-5, atol=1e-6)


def test_a_gradient_has_derivatives_in_both_modes():
    x, w, dw = (normal(3, 3, seed=i) for i in range(3))

    def products(product):
        def loss(w):
            return jnp.sin(product(jnp.tanh(product(x, w)), w)).sum()

        _, forwards = jax.jvp(jax.grad(loss), (w,), (dw,))
        backwards = jax.grad(lambda w: jnp.vdot(jax.grad(loss)(w), dw))(w)
        return forwards, backwards

    expected, _ = products(jnp.matmul)
    for found in jax.jit(lambda: products(linear))():
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_maps_over_kernels():
    x, w = normal(3, 5), normal(2, 5, 4, seed=1)
    np.testing.assert_allclose(jax.vmap(linear, (None, 0))(x, w), np.asarray(x) @ np.asarray(w), rtol=1e-5)
