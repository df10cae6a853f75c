"""Clipping against recorded numbers, and cases in which low precision or zeros break other implementations."""

from __future__ import annotations

import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    ParamLayout,
    adamw,
    adaptive_clip,
    chain,
    clip_by_block_rms,
    clip_by_norm,
    clip_by_value,
    states,
)
from tests.harness import permissive

GOLDEN = Path(__file__).parents[2] / "golden"
RECORD = json.loads((GOLDEN / "clips.json").read_text())
ARRAYS = dict(np.load(GOLDEN / "clips.npz"))


def tree(prefix):
    return {leaf: jnp.asarray(ARRAYS[f"{prefix}/{leaf}"]) for leaf in RECORD["leaves"]}


@pytest.mark.parametrize("name", RECORD["cases"])
def test_golden(name):
    case = RECORD["cases"][name]
    arguments, grads = case["arguments"], tree(case["input"])
    if "clip_value" in arguments:
        tx = clip_by_value(arguments["clip_value"])
    else:
        tx = clip_by_norm(arguments["max_norm"], ord=float(arguments["norm_type"]))
    clipped, state = jax.jit(tx.update)(grads, tx.init(grads))
    # The recorded functions divide by norm + 1e-6.
    chex.assert_trees_all_close(clipped, tree(name), rtol=1e-6, atol=0)
    if "returned_total_norm" in case:
        np.testing.assert_allclose(state.norm, case["returned_total_norm"], rtol=1e-6)


def test_monitors_are_read_from_the_state():
    """Norms of gradients and of both moments, as recorded from torch's AdamW."""
    recorded = dict(np.load(GOLDEN / "monitor.npz"))
    problem, leaves = dict(np.load(GOLDEN / "optimizers" / "problem.npz")), RECORD["leaves"]
    grads = {leaf: jnp.asarray(problem[f"grads/{leaf}"]) for leaf in leaves}
    params = {leaf: jnp.asarray(problem[f"params/{leaf}"]) for leaf in leaves}
    h = RECORD["monitor"]["hyperparameters"]
    b1, b2 = h["betas"]
    never = 1e9
    tx = chain(clip_by_norm(never), adamw(h["lr"], b1=b1, b2=b2, eps=h["eps"], weight_decay=h["weight_decay"]))

    def step(state, grad):
        _, state = tx.update(grad, state, params)
        moments = {"exp_avg_norm": states.get(state, "mu"), "exp_avg_sq_norm": states.get(state, "nu")}
        norms = jax.tree.map(lambda leaf: jnp.sqrt(jnp.sum(leaf**2)), moments)
        return state, (states.get(state, "ClipByNormState.norm"), norms)

    _, (total, norms) = jax.jit(lambda state: jax.lax.scan(step, state, grads))(tx.init(params))
    np.testing.assert_allclose(total, recorded["gradient_norm"], rtol=1e-6)
    for moment, by_leaf in norms.items():
        for leaf in leaves:
            np.testing.assert_allclose(by_leaf[leaf], recorded[f"{moment}/{leaf}"], rtol=1e-5)


def clipped(tx, grads):
    return jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])(grads)


def test_zero_norm_and_zero_threshold_give_zero_where_optax_gives_nan():
    grads = {"w": jnp.zeros(3)}
    with permissive():
        assert jnp.all(jnp.isnan(clipped(optax.clip_by_global_norm(0.0), grads)["w"]))
    for clip in (clip_by_norm, clip_by_value, clip_by_block_rms, adaptive_clip):
        chex.assert_trees_all_equal(clipped(clip(0.0), grads), grads)


def test_float16_norm_does_not_overflow_to_an_update_of_zero():
    grads = {"w": jnp.full((100,), 300.0, jnp.float16)}
    with permissive():
        assert not jnp.any(clipped(optax.clip_by_global_norm(1.0), grads)["w"])
    np.testing.assert_allclose(clipped(clip_by_norm(1.0), grads)["w"], 0.1, rtol=1e-3)
    np.testing.assert_allclose(clipped(clip_by_block_rms(1.0), grads)["w"], 1.0, rtol=1e-3)


def test_bfloat16_norm_of_many_leaves_is_exact():
    grads = {str(i): jnp.ones(1, jnp.bfloat16) for i in range(400)}
    tx = clip_by_norm(1.0)
    _, state = jax.jit(tx.update)(grads, tx.init(grads))
    assert state.norm == pytest.approx(20, rel=1e-6)
    with permissive():
        assert jax.jit(optax.tree.norm)(grads) == 16  # its sum stops at 256


def test_nan_is_passed_on_and_not_hidden():
    grads = {"bad": jnp.array([jnp.nan, 1.0]), "good": jnp.ones(2)}
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in jax.tree.leaves(clipped(clip_by_norm(1.0), grads)))
    assert jnp.isnan(clipped(clip_by_value(1.0), grads)["bad"][0])
    assert jnp.all(jnp.isnan(clipped(clip_by_block_rms(1.0), grads)["bad"]))


def test_a_large_tree_is_read_once_and_multiplied_once():
    """Without a select between two trees: one square per leaf for the norm, and one product per leaf."""
    grads = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    tx = clip_by_norm(1.0)
    jaxpr = jax.make_jaxpr(lambda g: tx.update(g, tx.init(g))[0])(grads)
    large = [eqn.primitive.name for eqn in jaxpr.eqns if eqn.outvars[0].aval.shape == (64, 64)]
    assert sorted(large) == ["mul", "mul", "square", "square"]


def test_norms_below_one_are_rejected():
    with pytest.raises(ValueError, match="ord=0.5 is out of range"):
        clip_by_norm(1.0, ord=0.5)


def test_adaptive_clip_needs_the_parameters():
    with pytest.raises(ValueError, match="adaptive_clip needs the parameters"):
        adaptive_clip(1.0).update({"w": jnp.ones(2)}, optax.EmptyState())


def test_adaptive_clip_knows_heads_and_stacks():
    """Units are (layer, head, width): each is clipped by the norm of its own weights."""
    layout = {"w": ParamLayout("matrix", (0,), (1,), (2, 3))}
    params = {"w": jnp.ones((2, 4, 3, 2)).at[1].multiply(10.0)}
    updates = jax.jit(lambda g: adaptive_clip(0.5, layout=layout).update(g, optax.EmptyState(), params)[0])(
        {"w": jnp.full((2, 4, 3, 2), 4.0)}
    )
    norms = jnp.linalg.norm(updates["w"], axis=1)
    np.testing.assert_allclose(norms[0], 0.5 * 2, rtol=1e-6)
    np.testing.assert_allclose(norms[1], 8.0, rtol=1e-6)
