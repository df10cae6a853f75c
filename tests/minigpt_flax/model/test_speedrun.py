"""The model of the preset ``speedrun``: against NumPy, against its authors' PyTorch code, and at initialization."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply, init_params, losses
from tests.minigpt_flax.model import speedrun

CONFIG = ModelConfig(vocab_size=13, context=12, layers=2, heads=2, width=32, **speedrun.PARTS)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 13, (3, 12)))


def test_logits_match_numpy(draw):
    params = draw(CONFIG, 0.5)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = np.stack([speedrun.logits(wide, tokens, CONFIG.heads) for tokens in TOKENS])
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(jax.jit(apply, static_argnums=0)(CONFIG, params, TOKENS), expected, atol=2e-4)


def test_losses_and_gradients_do_not_depend_on_how_they_are_computed(draw):
    params, changed = draw(CONFIG, 0.3), dataclasses.replace(CONFIG, scan_layers=True, remat="full", loss_chunk=6)
    loss = jax.jit(jax.value_and_grad(lambda p, config: jnp.sum(losses(config, p, TOKENS, TOKENS))), static_argnums=1)
    plain, other = (loss(params, config) for config in (CONFIG, changed))
    np.testing.assert_allclose(plain[0], other[0], rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), plain[1], other[1])


def test_initial_logits_are_equal_and_the_head_learns_first():
    config = dataclasses.replace(CONFIG, vocab_size=200, width=128)
    params = init_params(config, jax.random.key(0))
    block = params["blocks"]
    spreads = [
        (params["token_embedding"]["embedding"], 1.0),
        (block["attention"]["key"]["kernel"], (0.33 / 128) ** 0.5),
        (block["mlp"]["up"]["kernel"], (0.33 / 128) ** 0.5),
    ]
    for leaf, stddev in spreads:
        np.testing.assert_allclose(np.std(leaf), stddev, rtol=0.03)
    zero = [block["attention"]["output"], block["mlp"]["down"], params["head"]]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zero))
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(losses(config, p, TOKENS, TOKENS))))(params)
    moved = {name for name, part in gradient.items() if any(np.any(leaf) for leaf in jax.tree.leaves(part))}
    assert moved == {"head"}
