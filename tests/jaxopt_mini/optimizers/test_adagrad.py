"""Specific to AdaGrad: where eps stands, and entries that never had a gradient."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adagrad


@pytest.mark.parametrize("inside, divisor", [(True, np.sqrt(9 + 0.25 + 16)), (False, np.sqrt(9 + 16) + 0.25)])
def test_place_of_eps(inside, divisor):
    tx = adagrad(1.0, initial_accumulator_value=16.0, eps=0.25, eps_in_sqrt=inside)
    update, _ = tx.update(jnp.float32(3.0), tx.init(jnp.float32(0.0)))
    np.testing.assert_allclose(update, -3 / divisor, rtol=1e-6)


@pytest.mark.parametrize("inside", [True, False])
def test_without_eps_an_entry_without_gradient_stays(inside):
    tx = adagrad(1.0, initial_accumulator_value=0.0, eps=0.0, eps_in_sqrt=inside)
    update, _ = tx.update(jnp.array([0.0, -2.0]), tx.init(jnp.zeros(2)))
    np.testing.assert_array_equal(update, [0.0, 1.0])


@pytest.mark.parametrize("rate", [0.5, lambda count: 0.5])
def test_lr_decay_starts_with_the_second_step(rate):
    tx = adagrad(rate, initial_accumulator_value=0.0, eps=0.0, lr_decay=1.0)
    state = tx.init(jnp.zeros(()))
    first, state = tx.update(jnp.float32(1.0), state)
    second, _ = tx.update(jnp.float32(0.0), state)
    third, _ = tx.update(jnp.float32(1.0), state)
    np.testing.assert_allclose([first, second, third], [-0.5, 0.0, -0.25 / np.sqrt(2)], rtol=1e-6)
