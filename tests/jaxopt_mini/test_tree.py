"""Arithmetic on trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import tree
from tests.harness import normal


@pytest.mark.parametrize("ord", [1, 2, 3, 2.5, jnp.inf])
def test_norm_is_that_of_all_entries_as_one_vector(ord):
    leaves = normal({"a": (3, 2), "b": [(5,), ()]}, 0)
    vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(leaves)]).astype(np.float64)
    np.testing.assert_allclose(tree.norm(leaves, ord), np.linalg.norm(vector, ord), rtol=1e-6)


@pytest.mark.parametrize("ord", [1, 2, 3, jnp.inf])
def test_norm_of_low_precision_is_a_finite_float32(ord):
    leaves = [jnp.full(1000, 300.0, jnp.float16), jnp.ones(1000, jnp.bfloat16)]
    got = tree.norm(leaves, ord)
    assert got.dtype == jnp.float32
    expected = np.linalg.norm(np.concatenate([np.full(1000, 300.0), np.ones(1000)]), ord)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("ord", [1, 2, 3, jnp.inf])
def test_norm_of_nothing_is_zero_and_of_nan_is_nan(ord):
    assert tree.norm({}, ord) == 0
    assert tree.norm([jnp.zeros((0, 3))], ord) == 0
    assert jnp.isnan(tree.norm([jnp.array([1.0, jnp.nan])], ord))


def test_norm_of_complex_entries_is_real():
    np.testing.assert_allclose(tree.norm([jnp.array([3 + 4j])]), 5.0)


def test_large_sums_are_accurate():
    leaf = jnp.full(2**20, 0.1)
    np.testing.assert_allclose(tree.norm([leaf]), np.float32(0.1) * 2**10, rtol=1e-6)


def test_counting_stops_at_the_largest_int32():
    last = jnp.int32(tree.MAX_COUNT)
    assert tree.increment(jnp.int32(4)) == 5
    assert tree.increment(last) == last


def test_average_and_correction_of_a_constant_give_the_constant():
    memory = jnp.zeros(())
    for t in range(1, 6):
        memory = tree.average(jnp.float32(3.0), memory, 0.9)
        np.testing.assert_allclose(tree.bias_correction(memory, 0.9, jnp.int32(t)), 3.0, rtol=1e-5)


def test_low_precision_is_widened_and_the_rest_stays():
    for dtype, wide in [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("complex64",) * 2]:
        assert tree.wide_dtype(dtype) == wide
    for dtype in ("int32", "bool"):
        with pytest.raises(ValueError, match=f"got one of dtype {dtype}"):
            tree.wide_dtype(dtype)


def test_times_rounds_once():
    leaf = jnp.linspace(1, 2, 100, dtype=jnp.bfloat16)
    expected = (leaf.astype(jnp.float32) * jnp.float32(0.0029)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(tree.times(leaf, jnp.float32(0.0029)), expected)
    assert tree.times(jnp.ones(1, jnp.complex64), jnp.float32(2.0)).dtype == jnp.complex64


def test_masked_nodes_and_none_are_left_alone():
    holes = {"a": optax.MaskedNode(), "b": None, "c": jnp.ones(2, jnp.bfloat16)}
    zeros = tree.zeros_like(holes, jnp.float32)
    assert jax.tree.structure(zeros) == jax.tree.structure(holes)
    assert tree.cast_like(zeros, holes)["c"].dtype == jnp.bfloat16
    assert (tree.size(holes), tree.nbytes(holes)) == (2, 4)


def test_bytes_need_no_arrays():
    assert tree.nbytes(jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32)) == 4 * 10**12
