"""Tests for `minigpt_flax.model.position`."""

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.model.position import rotate as rotate_eagerly

rotate = jax.jit(rotate_eagerly)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_rotation_by_hand():
    x = jnp.array([[1.0, 0.0, 0.0, 2.0]])  # the points (1, 0) and (0, 2)
    slow = 3 * 10000.0**-0.5  # the second pair's angle at position 3
    expected = [np.cos(3), -2 * np.sin(slow), np.sin(3), 2 * np.cos(slow)]
    np.testing.assert_allclose(rotate(x, jnp.array([3]))[0], expected, rtol=1e-6)


def test_scores_depend_on_distance_alone():
    q, k = normal(2, 6, 8)
    here, later = jnp.arange(6), jnp.arange(6) + 40
    scores = np.asarray(rotate(q, here)) @ np.asarray(rotate(k, here)).T
    shifted = np.asarray(rotate(q, later)) @ np.asarray(rotate(k, later)).T
    np.testing.assert_allclose(scores, shifted, atol=1e-4)
    assert np.abs(scores - np.asarray(q) @ np.asarray(k).T).max() > 0.1


def test_lengths_and_position_zero_stay():
    x = normal(2, 5, 6)
    y = rotate(x, jnp.arange(5))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
