"""Specific to ASGD: the mean of the iterates."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import asgd, states
from tests.harness import normal, run


def test_the_mean_comes_nearer_to_the_minimum_than_the_iterates():
    """Half the squared distance to 1, with noise in the gradient."""
    noise = normal((500, 50), 0)
    tx = asgd(0.5, lambd=0.0, t0=20.0)

    class Noisy:
        init = tx.init

        @staticmethod
        def update(noise, state, params):
            return tx.update(params - 1 + noise, state, params)

    params, state = jax.jit(lambda g: run(Noisy, jnp.zeros(50), g))(noise)
    mean = states.get(state, "average")
    assert np.sqrt(np.mean((mean - 1) ** 2)) < 0.2 * np.sqrt(np.mean((params - 1) ** 2))


def test_until_the_mean_begins_it_is_a_copy():
    params, state = jax.jit(lambda g: run(asgd(0.1), jnp.zeros(3), g))(normal((5, 3), 0))
    np.testing.assert_array_equal(params, state.average)
