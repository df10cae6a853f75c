"""Specific to Adam: float16 moments and the corrections of the first step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adam, nadamw


def test_a_small_float16_gradient_moves_its_weight():
    """1e-4 squared is below float16's smallest number; a zero gradient beside it must not become 0/0."""
    grads = jnp.array([1e-4, 0.0], jnp.float16)
    update, _ = adam(0.5).update(grads, adam(0.5).init(grads))
    np.testing.assert_allclose(update, [-0.5, 0.0], rtol=1e-3)


@pytest.mark.parametrize("one, expected", [(False, 0.9 * 0.1 / 0.19 + 1.0), (True, 1.9)])
def test_first_step_of_the_two_nesterov_forms(one, expected):
    tx = nadamw(1.0, weight_decay=0.0, one_correction=one)
    params = jnp.zeros(())
    update, _ = tx.update(jnp.float32(1.0), tx.init(params), params)
    np.testing.assert_allclose(-update, expected, rtol=1e-4)
