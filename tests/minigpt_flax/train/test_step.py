"""The step: pure, one compilation, sums divided once, and no norm computed twice."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import adamw, apply_updates, chain, clip_by_norm
from jaxopt_mini.schedules import constant
from jaxopt_mini.tree import norm
from minigpt_flax.train.state import StepView, init_state
from minigpt_flax.train.step import make_step

KEY = jax.random.key(3)
PARAMS = {
    "table": jax.random.normal(jax.random.key(0), (7, 5)),
    "out": jax.random.normal(jax.random.key(1), (5, 7)),
    "bias": jnp.ones(7),
}
BATCH = np.random.default_rng(0).integers(0, 7, (4, 9)).astype(np.int32)
TX = chain(clip_by_norm(0.1), adamw(1e-2))


def loss_sum(params, inputs, targets, key):
    """Bigrams with noise, so that the key is seen; the last column doesn't count."""
    logits = params["table"][inputs] @ params["out"] + params["bias"][None, None, :]
    logits = logits + 0.1 * jax.random.normal(key, logits.shape)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[:, :-1]
    return jnp.sum(losses), jnp.float32(losses.size)


def build(tx=TX, **more):
    return make_step(loss_sum, tx, constant(1e-2, 10), key=KEY, **more)


def test_a_step_by_hand():
    state = init_state(PARAMS, TX)._replace(step=jnp.int32(5))
    new, metrics = jax.jit(build())(state, BATCH)
    key = jax.random.fold_in(KEY, 5)
    mean = lambda params: loss_sum(params, BATCH[:, :-1], BATCH[:, 1:], key)[0] / (4 * 7)
    loss, grads = jax.value_and_grad(mean)(PARAMS)
    updates, opt_state = TX.update(grads, state.opt_state, PARAMS)
    chex.assert_trees_all_close(new.params, apply_updates(PARAMS, updates), rtol=1e-5)
    chex.assert_trees_all_close(new.opt_state, opt_state, rtol=1e-4)
    assert int(new.step) == 6
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norm(grads), rtol=1e-6)
    squares = [jnp.sum(grads[name] ** 2) for name in ("bias", "out", "table")]
    np.testing.assert_allclose(metrics["grad_squares"], squares, rtol=1e-5)
    assert float(metrics["lr"]) == np.float32(1e-2)
    assert all(value.dtype == jnp.float32 for value in metrics.values())


def test_pure_and_traced_once():
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(build(), 1))
    state = init_state(PARAMS, TX)
    first, again = step(state, BATCH), step(state, BATCH)
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, first[0])
    for _ in range(3):
        state, _ = step(state, BATCH)


def test_the_state_is_given_away_and_nothing_else():
    step = jax.jit(build(), donate_argnums=0)
    state = init_state(jax.tree.map(jnp.copy, PARAMS), TX)
    batch = jnp.asarray(BATCH)
    step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not batch.is_deleted()


def test_probes_see_the_step_and_do_not_change_it():
    seen = {}

    def probe(view):
        seen.update(view._asdict())
        return {"update": norm(view.updates)}

    state = init_state(PARAMS, TX)
    plain, metrics = jax.jit(build())(state, BATCH)
    probed, more = jax.jit(build(probes={"probe": probe}))(state, BATCH)
    chex.assert_trees_all_equal(plain, probed)
    assert more.keys() - metrics.keys() == {"update"}
    assert set(seen) == set(StepView._fields)


def test_norms_are_computed_once_for_the_clip_and_for_the_record():
    def reductions(function):
        text = jax.jit(function).lower(init_state(PARAMS, TX), BATCH).compile().as_text()
        return len(re.findall(r" reduce\(", text))

    step = build()

    def without_norms(state, batch):
        new, metrics = step(state, batch)
        return new, metrics["loss"]

    assert reductions(step) == reductions(without_norms)
    assert reductions(without_norms) > len(PARAMS)


def test_the_recorded_norm_is_the_one_that_clips():
    new, metrics = jax.jit(build())(init_state(PARAMS, TX), BATCH)
    assert float(metrics["grad_norm"]) == float(new.opt_state[0].norm)
