"""Tests for `minigpt_flax.model.position`."""

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.model.position import half_rope_frequencies, rope_frequencies, rotate as rotate_eagerly

rotate = jax.jit(rotate_eagerly, static_argnums=(2, 3))


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_rotation_by_hand():
    x = jnp.array([[1.0, 0.0, 0.0, 2.0]])  # the points (1, 0) and (0, 2)
    slow = 3 * 10000.0**-0.5  # the second pair's angle at position 3
    expected = [np.cos(3), -2 * np.sin(slow), np.sin(3), 2 * np.cos(slow)]
    np.testing.assert_allclose(rotate(x, jnp.array([3]))[0], expected, rtol=1e-6)


def test_scores_depend_only_on_distance():
    q, k = normal(2, 6, 8)
    here, later = jnp.arange(6), jnp.arange(6) + 40
    scores = np.asarray(rotate(q, here)) @ np.asarray(rotate(k, here)).T
    shifted = np.asarray(rotate(q, later)) @ np.asarray(rotate(k, later)).T
    np.testing.assert_allclose(scores, shifted, atol=1e-4)
    assert np.abs(scores - np.asarray(q) @ np.asarray(k).T).max() > 0.1


def test_half_rope_leaves_the_slower_half_of_the_pairs_unrotated():
    x, positions = normal(5, 16), np.arange(5) * 7
    found = np.asarray(rotate(x, jnp.asarray(positions), half_rope_frequencies, 1024.0))
    x = np.asarray(x)
    angles = positions[:, None] * 1024.0 ** -np.array([0, 1 / 3, 2 / 3, 1])
    points = (x[:, :4] + 1j * x[:, 8:12]) * np.exp(1j * angles)
    np.testing.assert_allclose(found[:, :4] + 1j * found[:, 8:12], points, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[:, 4:8], x[:, 4:8])
    np.testing.assert_array_equal(found[:, 12:], x[:, 12:])


def test_the_base_sets_the_period_of_the_slowest_pair():
    angles = rope_frequencies(4, 16.0, jnp.float32)
    np.testing.assert_allclose(angles, [1, 1 / 2, 1 / 4, 1 / 8], rtol=1e-6)


def test_norms_and_position_zero_are_unchanged():
    x = normal(2, 5, 6)
    y = rotate(x, jnp.arange(5))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])
