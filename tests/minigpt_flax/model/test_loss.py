"""Tests for `minigpt_flax.model.loss`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.lm_head import logits_of
from minigpt_flax.model.loss import chunked_losses, cross_entropy, sum_losses, token_losses, tokens_per_chunk


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
    logits = jnp.zeros((2, 256, 2), jnp.bfloat16)
    total, count = cross_entropy(logits, jnp.zeros((2, 256), jnp.int32))
    assert total.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(total / count, np.log(2), rtol=1e-6)


def summed(x, matrix, targets, *, chunk, softcap=None):
    unembed = functools.partial(logits_of, ModelConfig(matrix.shape[1], softcap=softcap), matrix, None)
    return sum_losses(chunked_losses(unembed, x, targets, chunk))[0]


@pytest.mark.parametrize("chunk", [1, 6, 10, 14])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_chunked_losses_and_gradients_match_unchunked(chunk, softcap):
    random = np.random.default_rng(0)
    x, matrix = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((2, 7, 4), (4, 11)))
    targets = jnp.asarray(random.integers(0, 11, (2, 7)))
    run = jax.jit(jax.value_and_grad(summed, (0, 1)), static_argnames=("chunk", "softcap"))
    parts, whole = (run(x, matrix, targets, chunk=n, softcap=softcap) for n in (chunk, 14))
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    for a, b in zip(parts[1], whole[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_chunks_keep_their_order():
    x, targets = jnp.arange(10.0).reshape(2, 5, 1), jnp.zeros((2, 5), jnp.int32)
    unembed = lambda x: jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
    np.testing.assert_allclose(chunked_losses(unembed, x, targets, 4), token_losses(unembed(x), targets), rtol=1e-6)


@pytest.mark.parametrize(
    ("batch", "length", "vocab", "width"),
    [(2, 256, 4096, 16), pytest.param(8, 1024, 50257, 768, marks=pytest.mark.slow)],
)
def test_chunks_need_a_quarter_of_the_memory_at_most(batch, length, vocab, width):
    shapes = (batch, length, width), (width, vocab)
    x, matrix = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    targets, tokens = jax.ShapeDtypeStruct((batch, length), "int32"), batch * length

    def temporary(chunk):
        program = jax.jit(jax.value_and_grad(functools.partial(summed, chunk=chunk), (0, 1)))
        analysis = program.lower(x, matrix, targets).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    chunk = min(tokens // 8, tokens_per_chunk(tokens, vocab))
    assert temporary(chunk) <= temporary(tokens) / 4
