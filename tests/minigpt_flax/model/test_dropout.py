"""Dropout by bytes is dropout: its rate, its mean, its independence, its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.dropout import Dropout, keep_mask


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9, 0.001])
def test_as_many_are_dropped_as_are_said_to_be(rate):
    shape = (40, 50, 61)  # not a multiple of four
    kept, true = keep_mask(jax.random.key(0), rate, shape)
    error = np.sqrt(true * (1 - true) / kept.size)
    assert kept.shape == shape and abs(true - rate) <= 0.02 * rate
    assert abs(1 - kept.mean() - true) < 4 * error
    for axis in range(3):  # neighbours know nothing of each other, those of one word included
        a, b = (np.asarray(kept, np.float64).take(range(i, shape[axis] - 1 + i), axis).ravel() for i in (0, 1))
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)


def test_what_stays_is_enlarged_and_the_gradient_goes_where_it_stays():
    x, layer, key = jnp.ones((64, 130)), Dropout(0.2), jax.random.key(1)
    apply = lambda x, key: layer.apply({}, x, deterministic=False, rngs={"dropout": key})
    y, pull = jax.vjp(lambda x: apply(x, key), x)
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - 51 / 256))}
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], y)
    assert (apply(x, key) == y).all() and (apply(x, jax.random.key(2)) != y).any()


def test_nothing_is_dropped_where_nothing_shall_be():
    x = jnp.ones((3, 5))
    assert Dropout(0.5).apply({}, x, deterministic=True) is x and Dropout(0.0).apply({}, x, deterministic=False) is x
    half = Dropout(0.5).apply({}, x.astype(jnp.bfloat16), deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert half.dtype == jnp.bfloat16
