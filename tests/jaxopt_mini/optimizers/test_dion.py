"""Dion: what the low rank leaves out stays in the momentum; at full rank it is the polar factor."""

import jax
import numpy as np
import pytest

from jaxopt_mini import dion, scale_by_dion
from tests.harness import normal


def steps(tx, grad, count):
    def all_steps(grad):
        state = tx.init({"w": grad})
        for _ in range(count):
            updates, state = tx.update({"w": grad}, state)
        return updates["w"], state.mu["w"]

    return [np.asarray(x) for x in jax.jit(all_steps)(grad)]


def test_what_was_not_used_stays():
    grad = normal((4, 6), 0)
    step, left = steps(scale_by_dion(beta=0.0, rank=2), grad, 1)
    np.testing.assert_allclose(np.linalg.svd(step, compute_uv=False)[2:], 0.0, atol=1e-6)
    assert np.linalg.matrix_rank(left, tol=1e-5) == 2  # of four, two were used and taken off
    used = np.asarray(grad) - left
    np.testing.assert_allclose(used @ left.T, 0.0, atol=1e-5)
    np.testing.assert_allclose(step @ left.T, 0.0, atol=1e-5)


def test_at_full_rank_it_tends_to_the_polar_factor():
    grad = normal((4, 6), 0)
    step, _ = steps(scale_by_dion(beta=0.0), grad, 1)
    u, _, v = np.linalg.svd(grad, full_matrices=False)
    assert np.sum(step * (u @ v)) > 0.8 * 4
    step, left = steps(scale_by_dion(beta=0.5), grad, 60)
    assert np.sum(step * (u @ v)) > 0.99 * 4
    np.testing.assert_allclose(left, grad, atol=1e-4)  # mu <- (mu + g) / 2


def test_rank_is_checked():
    with pytest.raises(ValueError, match="rank=0"):
        dion(0.1, rank=0)
