"""Specific to Lion: steps of equal length."""

import jax.numpy as jnp
import numpy as np

from jaxopt_mini import lion


def test_every_entry_moves_by_the_rate_and_an_entry_without_gradient_stays():
    tx = lion(0.25, weight_decay=0.0)
    params = jnp.zeros(3)
    update, _ = tx.update(jnp.array([1e-20, 0.0, -1e20]), tx.init(params), params)
    np.testing.assert_array_equal(update, [-0.25, 0.0, 0.25])
