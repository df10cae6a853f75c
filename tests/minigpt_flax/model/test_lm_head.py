"""Tests for `minigpt_flax.model.lm_head`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply, losses
from minigpt_flax.model.lm_head import SOFTCAPS, logits_of
from minigpt_flax.model.loss import token_losses

CONFIG = ModelConfig(vocab_size=11, context=6, layers=1, heads=2, width=8, head_bias=True)
FORMULAS = {"tanh": lambda x: 15 * np.tanh(x / 15), "algebraic": lambda x: 15 * x / np.sqrt(x**2 + 225)}


@pytest.mark.parametrize("form", SOFTCAPS)
def test_softcap_follows_its_formula_keeps_small_logits_and_has_gradients_everywhere(form):
    x = np.array([-3e4, -20.0, -1e-3, 0.0, 1e-3, 1.0, 15.0, 3e4])
    capped = SOFTCAPS[form](jnp.asarray(x, jnp.float32), 15.0)
    np.testing.assert_allclose(capped, FORMULAS[form](x), rtol=2e-6)
    np.testing.assert_allclose(capped[2:5], x[2:5], rtol=1e-6)
    slopes = jax.vmap(jax.grad(lambda one: SOFTCAPS[form](one, 15.0)))(jnp.asarray(x, jnp.float32))
    assert slopes[3] == pytest.approx(1) and np.all(slopes >= 0) and np.isfinite(slopes).all()


def test_logits_are_product_plus_bias_then_softcap():
    random = np.random.default_rng(0)
    x, matrix, bias = (random.standard_normal(shape) for shape in ((2, 3, 8), (8, 11), 11))
    config = dataclasses.replace(CONFIG, softcap=15.0, softcap_form="algebraic")
    found = logits_of(config, *(jnp.asarray(a, jnp.float32) for a in (matrix, bias, x)))
    np.testing.assert_allclose(found, FORMULAS["algebraic"](x @ matrix + bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tie_head", [True, False])
def test_the_bias_is_added_to_every_tokens_logits(tie_head, draw):
    config = dataclasses.replace(CONFIG, tie_head=tie_head)
    params, tokens = draw(config, 0.3), jnp.array([[1, 2, 3, 4, 5, 6]])
    bias = params["head"].pop("bias")
    run = jax.jit(apply, static_argnums=0)
    without = run(dataclasses.replace(config, head_bias=False), params, tokens)
    params["head"]["bias"] = bias
    logits = run(config, params, tokens)
    np.testing.assert_allclose(logits, without + bias[None, None], atol=1e-6)
    chunked = jax.jit(losses, static_argnums=0)(dataclasses.replace(config, loss_chunk=2), params, tokens, tokens)
    np.testing.assert_allclose(chunked, token_losses(logits, tokens), atol=1e-6)
