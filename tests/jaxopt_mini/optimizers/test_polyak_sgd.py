"""Specific to Polyak: the step from the loss, and what the learning rate does to it."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import polyak_sgd
from tests.harness import permissive

PARAMS = jnp.array([3.0, 4.0])


def step(tx, value=25.0):
    """From the sum of squares at (3, 4), which is 25, the gradient (6, 8) of square 100."""
    return tx.update(2 * PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(value))


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_the_rate_multiplies_the_step_and_optax_divides_it(rate):
    documented = -rate * 0.25 * 2 * PARAMS
    np.testing.assert_allclose(step(polyak_sgd(rate))[0], documented, rtol=1e-6)
    with permissive(), pytest.raises(AssertionError):
        np.testing.assert_allclose(step(optax.polyak_sgd(scaling=rate))[0], documented, rtol=1e-6)


@pytest.mark.parametrize("keywords", [{}, {"max_learning_rate": 0.125}, {"f_min": 5.0, "eps": 20.0}])
def test_is_otherwise_optax(keywords):
    with permissive():
        chex.assert_trees_all_close(step(polyak_sgd(**keywords)), step(optax.polyak_sgd(**keywords)), rtol=1e-6)
        for rate in (1.0, lambda count: 1.0):
            ours, theirs = polyak_sgd(rate).init(PARAMS), optax.polyak_sgd(scaling=rate).init(PARAMS)
            chex.assert_trees_all_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("variant, expected", [("sps", 0.25), ("sps+", 0.0)])
def test_below_the_bound_of_the_loss(variant, expected):
    """The first variant ascends to the bound, the second stays."""
    updates, _ = step(polyak_sgd(f_min=50.0, variant=variant))
    np.testing.assert_allclose(updates, expected * 2 * PARAMS, rtol=1e-6)


def test_tiny_gradients_still_move():
    tx, tiny = polyak_sgd(), jnp.float32(1e-9)
    assert tx.update(tiny, tx.init(tiny), tiny, value=tiny**2)[0] == -tiny


def test_wrong_arguments_are_rejected():
    with pytest.raises(ValueError, match="unknown variant='sgd': choose from sps"):
        polyak_sgd(variant="sgd")
    with pytest.raises(ValueError, match="f_min=inf"):
        polyak_sgd(f_min=float("inf"))
    with pytest.raises(ValueError, match="value=loss"):
        polyak_sgd().update(PARAMS, polyak_sgd().init(PARAMS))
