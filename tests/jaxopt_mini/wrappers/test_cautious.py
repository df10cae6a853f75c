"""Cautious updates and cautious decay, beyond the property tests and recorded trajectories."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import cautious, cautious_decay
from jaxopt_mini.transforms import scale


def test_agreement_is_of_signs_and_cannot_underflow():
    """The product of the two float16 numbers is 0."""
    tx = cautious(scale(-1e-3))
    grads = {"w": jnp.full(4, 1e-4, jnp.float16)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert jnp.all(updates["w"] < 0)


def test_an_update_that_agrees_nowhere_is_zero():
    for scaling in ("mean", "count"):
        tx = cautious(scale(1.0), scaling=scaling)
        grads = {"w": jnp.array([1.0, -2.0])}
        np.testing.assert_array_equal(tx.update(grads, tx.init(grads))[0]["w"], jnp.zeros(2))


def test_complex_entries_agree_when_the_step_descends():
    tx = cautious(scale(-1.0))
    grads = {"w": jnp.array([1 + 1j, -2j])}
    np.testing.assert_allclose(tx.update(grads, tx.init(grads))[0]["w"], -grads["w"])


def test_unknown_scaling_is_rejected():
    with pytest.raises(ValueError, match="unknown scaling='max': choose from mean, count"):
        cautious(scale(1.0), scaling="max")


@pytest.mark.parametrize("mask", [{"w": True, "b": False}, lambda params: {"w": True, "b": False}])
def test_decay_follows_a_mask(mask):
    tx = cautious_decay(scale(0.0), weight_decay=0.5, learning_rate=0.1, mask=mask)
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05)
    np.testing.assert_array_equal(updates["b"], jnp.zeros(2))


def test_decay_follows_a_schedule():
    tx = cautious_decay(scale(0.0), weight_decay=0.5, learning_rate=lambda count: 0.1 * (count + 1).astype(jnp.float32))
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    for t in (1, 2, 3):
        updates, state = tx.update(params, state, params)
        np.testing.assert_allclose(updates["w"], -0.05 * t, rtol=1e-6)
