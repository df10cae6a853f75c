"""Tests for `minigpt_flax.model.norm`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.norm import NORMS, Norm, layernorm, rmsnorm


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_layernorm_by_hand():
    # mean 2, variance (4 + 0 + 4) / 3
    np.testing.assert_allclose(layernorm(jnp.array([0.0, 2.0, 4.0]), 0.0), [-1.2247449, 0, 1.2247449], rtol=1e-6)


def test_rmsnorm_by_hand():
    # mean square (9 + 16) / 2 = 12.5
    np.testing.assert_allclose(rmsnorm(jnp.array([3.0, 4.0]), 0.0), [0.8485281, 1.1313708], rtol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_scale_of_the_input_does_not_matter_and_zero_stays_finite(name):
    x, norm = normal(3, 8), jax.jit(NORMS[name], static_argnums=1)
    np.testing.assert_allclose(norm(x, 0.0), norm(7 * x, 0.0), rtol=1e-5)
    gradient = jax.grad(lambda x: norm(x, 1e-5).sum())(jnp.zeros((3, 8)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("parts", "learned"), [({"norm_bias": False}, True), ({}, False)], ids=str)
def test_norms_without_bias_or_without_parameters(parts, learned):
    module, x = Norm(ModelConfig(vocab_size=8, bias=True, norm="rmsnorm", **parts), learned=learned), normal(2, 3, 8)
    params = {"scale": jnp.arange(8.0)} if learned else {}
    y = module.apply({"params": params}, x)
    wide = np.asarray(x, np.float64)
    expected = wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + 1e-5) * np.arange(8.0) ** learned
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert jax.tree.structure(module.init(jax.random.key(0), x).get("params", {})) == jax.tree.structure(params)


@pytest.mark.parametrize("bias", [False, True])
def test_scale_and_bias_act_on_the_last_axis(bias):
    module = Norm(ModelConfig(vocab_size=8, bias=bias))
    x = normal(2, 3, 8)
    params = {"scale": jnp.arange(8.0)} | ({"bias": jnp.arange(8.0) + 1} if bias else {})
    y = module.apply({"params": params}, x)
    expected = np.asarray(layernorm(x, 1e-5)) * np.arange(8) + (np.arange(8) + 1 if bias else 0)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert jax.tree.structure(module.init(jax.random.key(0), x)["params"]) == jax.tree.structure(params)
