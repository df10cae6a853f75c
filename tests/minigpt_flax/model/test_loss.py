"""Tests for `minigpt_flax.model.loss`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minigpt_flax.model.loss import cross_entropy


def test_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    total, count = cross_entropy(logits, jnp.array([[0, 2]]))
    np.testing.assert_allclose(total, -np.log(0.5) - np.log(0.8), rtol=1e-6)
    assert count == 2


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint16"])
def test_equals_optax_with_its_gradient(dtype):
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.normal(0, 3, (2, 5, 300)), jnp.float32)
    targets = jnp.asarray(random.integers(0, 256, (2, 5)), dtype)

    def theirs(logits):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return optax.softmax_cross_entropy_with_integer_labels(logits, targets.astype("int32")).sum()

    def ours(logits):
        return cross_entropy(logits, targets)[0]

    for a, b in zip(*(jax.jit(jax.value_and_grad(f))(logits) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_masked_tokens_count_for_nothing(dtype):
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 7)), jnp.float32)
    targets = jnp.array([[0, 1, 2], [3, 4, 5]])
    mask = jnp.array([[1, 1, 0], [1, 0, 0]], dtype)
    total, count = cross_entropy(logits, targets, mask)
    parts = [cross_entropy(logits[:1, :2], targets[:1, :2])[0], cross_entropy(logits[1:, :1], targets[1:, :1])[0]]
    np.testing.assert_allclose(total, sum(parts), rtol=1e-6)
    assert count == 3


def test_low_precision_logits_are_summed_in_float32():
    logits = jnp.zeros((4, 1024, 2), jnp.bfloat16)
    total, count = cross_entropy(logits, jnp.zeros((4, 1024), jnp.int32))
    assert total.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(total / count, np.log(2), rtol=1e-6)
