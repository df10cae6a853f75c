"""Tests for `minigpt_flax.model.mlp`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.mlp import MLPS, Mlp, hidden_size

POINTS = [-2.0, -0.5, 0.0, 0.5, 2.0]
FORMULAS = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "swiglu": lambda x: x / (1 + math.exp(-x)),
    "relu2": lambda x: max(x, 0) ** 2,
}


@pytest.mark.parametrize("name", MLPS)
def test_activation_by_its_formula(name):
    y = MLPS[name].activation(jnp.array(POINTS))
    np.testing.assert_allclose(y, [FORMULAS[name](x) for x in POINTS], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(jnp.float32, 3e-7, 1e-6), (jnp.bfloat16, 5e-3, 1e-3)])
def test_gelu_is_accurate_in_its_dtype(dtype, rtol, atol):
    x = jnp.linspace(-3, 6, 400, dtype=dtype)
    expected = [FORMULAS["gelu"](point) for point in np.asarray(x, float)]
    np.testing.assert_allclose(np.asarray(MLPS["gelu"].activation(x), float), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", MLPS)
def test_layer_by_its_formula(name):
    config = ModelConfig(vocab_size=8, width=4, heads=1, mlp=name)
    module = Mlp(config)
    x = np.random.default_rng(0).standard_normal((1, 2, 4)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    kernel = {part: np.asarray(params[part]["kernel"]) for part in params}
    up = x[0] @ kernel["up"]
    through = x[0] @ kernel["gate"] if "gate" in kernel else up
    hidden = np.vectorize(FORMULAS[name], otypes=[float])(through) * (up if "gate" in kernel else 1)
    y = jax.jit(module.apply)({"params": params}, x)[0]
    np.testing.assert_allclose(y, hidden @ kernel["down"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("width", [48, 128, 384, 768])
def test_gated_rows_have_about_as_many_parameters(width):
    plain = 2 * hidden_size(ModelConfig(vocab_size=8, width=width))
    gated = 3 * hidden_size(ModelConfig(vocab_size=8, width=width, mlp="swiglu"))
    assert plain <= gated < 1.02 * plain
    assert hidden_size(ModelConfig(vocab_size=8, width=width, hidden=5)) == 5
