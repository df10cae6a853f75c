"""Tests for `minigpt_flax.model.attention`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.attention import attend as attend_eagerly

attend = jax.jit(attend_eagerly, static_argnames=("drop", "scale"))


def keep(weights):
    return weights


def double(weights):
    return 2 * weights


def draw(heads, kv_heads):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal((2, 5, n, 4)), jnp.float32) for n in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_the_definition(kv_heads):
    q, k, v = map(np.asarray, draw(4, kv_heads))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(*q.shape[:3]):
        shared = n * kv_heads // 4
        scores = k[b, : t + 1, shared] @ q[b, t, n] / 2  # sqrt(4)
        weights = np.exp(scores) / np.exp(scores).sum()
        out[b, t, n] = weights @ v[b, : t + 1, shared]
    np.testing.assert_allclose(attend(*map(jnp.asarray, (q, k, v)), drop=keep), out, atol=1e-6)


def test_attention_scale():
    q, k, v = draw(4, 2)
    found = attend(q, k, v, drop=keep, scale=0.12)
    np.testing.assert_allclose(found, attend(0.24 * q, k, v, drop=keep), atol=1e-6)  # 1 / sqrt(4) times 0.24
    assert np.abs(found - attend(q, k, v, drop=keep)).max() > 0.01


def test_grouped_equals_repeated_heads():
    q, k, v = draw(4, 2)
    repeated = attend(q, *(jnp.asarray(np.repeat(a, 2, axis=2)) for a in (k, v)), drop=keep)
    np.testing.assert_allclose(attend(q, k, v, drop=keep), repeated, atol=1e-6)


def test_dropout_acts_on_the_attention_weights():
    q, k, v = draw(4, 2)
    np.testing.assert_allclose(attend(q, k, v, drop=double), 2 * attend(q, k, v, drop=keep), atol=1e-6)


def test_large_scores_stay_finite():
    q, k, v = draw(2, 2)
    assert np.isfinite(attend(1e4 * q, 1e4 * k, v, drop=keep)).all()
