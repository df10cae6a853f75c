"""Tests for `minigpt_flax.model.fused_cross_entropy`, on a CPU, which does not use it by default."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.model import gpt, lm_head, loss
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.fused_cross_entropy import one_pass_losses
from minigpt_flax.model.loss import token_losses

BOUNDS = {"none": lambda x: x, **{name: functools.partial(cap, bound=2.0) for name, cap in lm_head.SOFTCAPS.items()}}


def plain(bound, logits, targets):
    return token_losses(bound(logits), targets)


def given(scale=3.0):
    keys = jax.random.split(jax.random.key(0), 3)
    logits = scale * jax.random.normal(keys[0], (2, 5, 11))
    return logits, jax.random.randint(keys[1], (2, 5), 0, 11), jax.random.normal(keys[2], (2, 5))


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
def test_loss_gradient_and_hessian_vector_product(bound):
    logits, targets, weights = given()

    def found(losses):
        total = lambda logits: jnp.sum(jnp.square(losses(bound, logits, targets)) * weights)
        product = jax.vjp(jax.grad(total), logits)[1](jnp.cos(logits))[0]
        return losses(bound, logits, targets), jax.grad(total)(logits), product

    for ours, exact in zip(jax.jit(lambda: found(one_pass_losses))(), found(plain), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_large_logits_and_masked_ones_stay_finite(shift):
    logits, targets, _ = given()
    logits = (logits + shift).at[0, :, 3].set(jnp.finfo(jnp.float32).min)
    targets = jnp.where(targets == 3, 4, targets)
    loss, slope = jax.value_and_grad(lambda logits: jnp.sum(one_pass_losses(BOUNDS["none"], logits, targets)))(logits)
    np.testing.assert_allclose(loss, jnp.sum(token_losses(logits, targets)), rtol=1e-5)
    assert jnp.all(jnp.isfinite(slope))


def test_logits_are_read_once_and_saved_uncapped():
    logits, targets, _ = given()
    total = lambda logits: jnp.sum(one_pass_losses(BOUNDS["tanh"], logits, targets))
    text = str(jax.make_jaxpr(jax.vjp, static_argnums=0)(total, logits))
    assert text.count("reduce[") == 1 and text.count("reduce_max") == 0
    kept = jax.tree.leaves(jax.eval_shape(lambda logits: jax.vjp(total, logits)[1], logits))
    assert sum(leaf.shape == logits.shape for leaf in kept) == 1


@pytest.mark.parametrize("chunk", [0, 6])
def test_a_model_with_it_has_the_same_losses_and_gradients(monkeypatch, draw, chunk):
    config = ModelConfig(11, context=6, layers=1, heads=2, width=8, softcap=2.0, loss_chunk=chunk)
    params, tokens = draw(config), jax.random.randint(jax.random.key(1), (3, 7), 0, 11)
    total = lambda params: jnp.sum(gpt.losses(config, params, tokens[:, :-1], tokens[:, 1:]))
    exact = jax.jit(jax.value_and_grad(total))(params)
    monkeypatch.setattr(loss.jax, "default_backend", lambda: "gpu")
    assert loss.losses_of_logits(BOUNDS["none"]).func is one_pass_losses
    found = jax.jit(jax.value_and_grad(lambda params: total(params)))(params)  # traced again
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, exact)


def test_batched():
    logits, targets, _ = given()
    slope = jax.grad(lambda logits, targets: jnp.sum(one_pass_losses(BOUNDS["tanh"], logits, targets)))
    apart = jax.vmap(slope)(logits[:, None], targets[:, None])[:, 0]
    np.testing.assert_allclose(apart, slope(logits, targets), atol=1e-6)


def test_sharded_logits():
    logits, targets, _ = given()
    logits = jnp.concatenate([logits, logits[..., :5]], -1)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"))
    place = lambda a, *spec: jax.device_put(a, jax.NamedSharding(mesh, jax.P(*spec)))
    slope = jax.jit(jax.grad(lambda a, t: jnp.sum(one_pass_losses(BOUNDS["tanh"], a, t))))
    divided = slope(place(logits, "data", None, "tensor"), place(targets, "data"))
    np.testing.assert_allclose(divided, slope(logits, targets), atol=1e-6)
