"""Equivalent transformations of Optax: the same numbers and the same states, type for type."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_mini import (
    ParamLayout,
    adaptive_clip,
    add_decayed_weights,
    centralize,
    clip_by_block_rms,
    clip_by_norm,
    clip_by_value,
    ema,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    scale_by_schedule,
    scale_by_trust_ratio,
    snapshot,
)
from jaxopt_mini.transforms import scale, trace
from jaxopt_mini.tree import norm
from tests.harness import normal, permissive

SHAPES = {"dense": {"kernel": (6, 4), "bias": (4,)}, "conv": (3, 3, 4, 5), "scale": ()}
OUTPUTS_FIRST = {
    "dense": {"kernel": ParamLayout("matrix", (), (1,), (0,)), "bias": ParamLayout("vector", (), (), (0,))},
    "conv": ParamLayout("matrix", (), (1, 2, 3), (0,)),
    "scale": ParamLayout("vector"),
}
MATRICES = {"dense": {"kernel": True, "bias": False}, "conv": True, "scale": False}
STEPS = 5


def fall(count):
    return 0.1 / (1.0 + jnp.asarray(count, jnp.float32))


PAIRS = {
    "clip": (optax.clip(0.5), clip_by_value(0.5)),
    "clip_by_block_rms": (optax.clip_by_block_rms(0.5), clip_by_block_rms(0.5)),
    "clip_by_block_rms, let through": (optax.clip_by_block_rms(50.0), clip_by_block_rms(50.0)),
    "adaptive_grad_clip": (optax.adaptive_grad_clip(0.2), adaptive_clip(0.2)),
    "adaptive_grad_clip, eps": (optax.adaptive_grad_clip(0.2, eps=3.0), adaptive_clip(0.2, eps=3.0)),
    "add_decayed_weights": (optax.add_decayed_weights(0.1), add_decayed_weights(0.1)),
    "add_decayed_weights, mask": (optax.add_decayed_weights(0.1, MATRICES), add_decayed_weights(0.1, MATRICES)),
    "scale": (optax.scale(0.3), scale(0.3)),
    "scale_by_schedule": (optax.scale_by_schedule(fall), scale_by_schedule(fall)),
    "scale_by_learning_rate": (optax.scale_by_learning_rate(0.3), scale_by_learning_rate(0.3)),
    "scale_by_learning_rate, schedule": (
        optax.scale_by_learning_rate(fall, flip_sign=False),
        scale_by_learning_rate(fall, flip_sign=False),
    ),
    "scale_by_trust_ratio": (optax.scale_by_trust_ratio(), scale_by_trust_ratio()),
    "scale_by_trust_ratio, bounds": (optax.scale_by_trust_ratio(3.0, 0.1, 0.5), scale_by_trust_ratio(3.0, 0.1, 0.5)),
    "scale_by_param_block_rms": (optax.scale_by_param_block_rms(), scale_by_param_block_rms()),
    "scale_by_factored_rms": (optax.scale_by_factored_rms(), scale_by_factored_rms()),
    "scale_by_factored_rms, factored": (
        optax.scale_by_factored_rms(True, 0.5, 0, 4, 1e-3),
        scale_by_factored_rms(True, 0.5, 0, 4, 1e-3),
    ),
    "trace": (optax.trace(0.9), trace(0.9)),
    "trace, nesterov": (optax.trace(0.9, True), trace(0.9, True)),
    "ema": (optax.ema(0.9), ema(0.9)),
    "ema, plain": (optax.ema(0.9, False), ema(0.9, False)),
    "centralize": (optax.centralize(), centralize(layout=OUTPUTS_FIRST)),
    "snapshot": (optax.snapshot("size", optax.tree.norm), snapshot("size", norm)),
}


def trajectory(tx, params, grads):
    """Updates of every step and the last state."""

    def step(state, grad):
        updates, state = tx.update(grad, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params), grads)


def compare(theirs, ours, dtype, steps, **tolerance):
    params, grads = normal(SHAPES, 0, dtype=dtype), normal(SHAPES, 1, steps, dtype)
    with permissive():
        expected = jax.jit(lambda: trajectory(theirs, params, grads))()
    got = jax.jit(lambda: trajectory(ours, params, grads))()
    chex.assert_trees_all_equal_structs(got, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, **tolerance)


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax(name):
    compare(*PAIRS[name], jnp.float32, STEPS, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "snapshot"])
def test_equals_optax_in_bfloat16_up_to_its_rounding(name):
    compare(*PAIRS[name], jnp.bfloat16, 2, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("pair", [(optax.trace, trace), (optax.ema, ema)])
def test_keeps_its_memory_in_the_dtype_that_optax_keeps_it_in(pair):
    theirs, ours = (link(0.9, accumulator_dtype="bfloat16") for link in pair)
    compare(theirs, ours, jnp.float32, 2, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("threshold", [0.1, 1e6])
def test_clip_by_norm_gives_optax_updates(threshold):
    grads = normal(SHAPES, 2)
    theirs, ours = optax.clip_by_global_norm(threshold), clip_by_norm(threshold)
    with permissive():
        expected, _ = jax.jit(theirs.update)(grads, theirs.init(grads))
    got, state = jax.jit(ours.update)(grads, ours.init(grads))
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    assert state.norm == pytest.approx(float(optax.tree.norm(grads)), rel=1e-6)
    assert (state.factor < 1) == (threshold < 1)


def test_bfloat16_updates_are_not_scaled_by_a_rounded_rate():
    """0.003 has an error of 0.2 % in bfloat16, always in the same direction."""
    leaf = jnp.linspace(1.0, 2.0, 128, dtype=jnp.bfloat16)
    exact = 0.0029 * leaf.astype(jnp.float32)

    def bias(tx):
        updates, _ = tx.update(leaf, tx.init(leaf))
        return jnp.mean(updates.astype(jnp.float32) / exact) - 1

    with permissive():
        theirs = bias(optax.scale(0.0029))
    assert abs(bias(scale(0.0029))) < abs(theirs) / 3
