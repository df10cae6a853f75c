"""Byte-based dropout: its rate, mean, independence and key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.dropout import Dropout, keep_mask


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5, 0.9, 0.001, 0.97, 0.99, 0.999])
def test_the_fraction_of_dropped_elements_is_the_rate(rate):
    shape = (40, 50, 61)  # not a multiple of four
    kept, true = keep_mask(jax.random.key(0), rate, shape)
    error = np.sqrt(true * (1 - true) / kept.size)
    assert kept.shape == shape and abs(true - rate) <= 0.02 * min(rate, 1 - rate)
    assert abs(1 - kept.mean() - true) < 4 * error
    for axis in range(3):  # neighbors are independent, even within one random word
        a, b = (np.asarray(kept, np.float64).take(range(i, shape[axis] - 1 + i), axis).ravel() for i in (0, 1))
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)


def test_kept_elements_are_scaled_and_only_they_have_gradients():
    x, layer, key = jnp.ones((64, 130)), Dropout(0.2), jax.random.key(1)
    apply = lambda x, key: layer.apply({}, x, deterministic=False, rngs={"dropout": key})
    y, pull = jax.vjp(lambda x: apply(x, key), x)
    assert set(np.unique(y)) == {0.0, np.float32(1 / (1 - 51 / 256))}
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], y)
    assert (apply(x, key) == y).all() and (apply(x, jax.random.key(2)) != y).any()


def test_no_dropout_at_rate_zero_or_when_deterministic():
    x = jnp.ones((3, 5))
    assert Dropout(0.5).apply({}, x, deterministic=True) is x and Dropout(0.0).apply({}, x, deterministic=False) is x
    half = Dropout(0.5).apply({}, x.astype(jnp.bfloat16), deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("rate", [0.2, 0.01])
def test_the_masks_of_devices_are_parts_of_the_mask_of_the_whole_batch(rate, impl):
    key, shape = jax.random.key(3, impl=impl), (2, 3, 5)
    parts = jax.pmap(lambda _: keep_mask(key, rate, shape, "data")[0], "data", devices=jax.devices()[:4])(jnp.arange(4))
    whole, _ = keep_mask(key, rate, (8, 3, 5))
    np.testing.assert_array_equal(parts.reshape(8, 3, 5), whole)
