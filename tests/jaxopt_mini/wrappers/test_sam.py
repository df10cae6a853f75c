"""Sharpness-aware minimization against Optax's, and where its gradient is zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import adamw, apply_updates, sam, sgd
from tests.harness import SHAPES, normal, permissive


def loss(params):
    return sum(jnp.sum(jnp.cos(leaf) + jnp.square(leaf)) for leaf in jax.tree.leaves(params))


@pytest.mark.usefixtures("correction_of_optax")
def test_is_that_of_optax():
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    theirs = optax.contrib.sam(optax.adamw(0.1), adversary, opaque_mode=True)
    ours = sam(adamw(0.1), rho=0.3)

    def train(tx, params, **extra_args):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params, **extra_args)
            return (apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=20)[0][0]

    params = normal(SHAPES, 0)
    with permissive():
        expected = jax.jit(lambda p: train(theirs, p, grad_fn=lambda params, _: jax.grad(loss)(params)))(params)
    chex.assert_trees_all_close(jax.jit(lambda p: train(ours, p, loss_fn=loss))(params), expected, rtol=1e-5, atol=1e-6)
    plain = jax.jit(lambda p: train(sam(adamw(0.1), rho=0.0), p, loss_fn=loss))(params)
    assert np.abs(plain["embed"] - expected["embed"]).max() > 1e-3


def test_at_a_gradient_of_zero_it_stays():
    tx, params = sam(sgd(0.1)), {"w": jnp.zeros(3)}
    updates, _ = tx.update(params, tx.init(params), params, loss_fn=lambda p: jnp.sum(jnp.square(p["w"])))
    np.testing.assert_array_equal(updates["w"], jnp.zeros(3))


def test_gradients_of_a_mapped_axis_are_averaged():
    """Two halves of a batch, as under pmap: the same step on both."""
    tx, params = sam(sgd(0.1), rho=0.1, axis_name="data"), {"w": jnp.ones(3)}

    def step(data):
        def half(params):
            return jnp.sum(jnp.square(params["w"] * data))

        grads = jax.lax.pmean(jax.grad(half)(params), "data")
        return tx.update(grads, tx.init(params), params, loss_fn=half)[0]["w"]

    first, second = jax.vmap(step, axis_name="data")(jnp.array([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(first, second)


def test_a_missing_loss_is_required():
    tx, params = sam(sgd(0.1)), {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="loss_fn=..."):
        tx.update(params, tx.init(params), params)
