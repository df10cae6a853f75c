"""Accumulation: the numbers of the large batch, and the inner optimizer runs only once in k calls."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    accumulate,
    adamw,
    apply_updates,
    base,
    chain,
    clip_by_norm,
    flush,
    sgd,
    skip_nonfinite,
    skip_spikes,
    states,
)
from jaxopt_mini.schedules import linear
from jaxopt_mini.wrappers import inner_updates
from tests.cases_wrappers import INSIDE, WRAPPED
from tests.harness import SHAPES, half_square, normal, permissive, run


def inner():
    return chain(clip_by_norm(1.0), adamw(lambda count: 0.1 * jnp.exp2(-count.astype(jnp.float32)), weight_decay=0.1))


def test_equals_the_large_batch():
    """Three steps on batches of 12, and twelve calls with batches of 3."""
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(generator.standard_normal((3, 12, 5)), jnp.float32)
    targets = jnp.asarray(generator.standard_normal((3, 12, 2)), jnp.float32)

    def train(tx, inputs, targets):
        def loss(params, x, y):
            return jnp.mean(jnp.square(jnp.tanh(x @ params["kernel"]) - y))

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, *batch), state, params)
            return (apply_updates(params, updates), state), None

        params = {"kernel": jnp.ones((5, 2))}
        return jax.lax.scan(step, (params, tx.init(params)), (inputs, targets))[0][0]

    large = jax.jit(train, static_argnums=0)(inner(), inputs, targets)
    small = jax.jit(train, static_argnums=0)(
        accumulate(inner(), steps=4), inputs.reshape(12, 3, 5), targets.reshape(12, 3, 2)
    )
    np.testing.assert_allclose(small["kernel"], large["kernel"], rtol=2e-6)
    assert np.abs(large["kernel"] - 1).min() > 0.01


def test_equals_optax_multi_steps():
    def theirs(params, grads):
        tx = optax.MultiSteps(inner(), 3)

        def step(carry, grad):
            updates, state = tx.update(grad, carry[1], carry[0])
            return (apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), grads)[0][0]

    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 20)
    ours = jax.jit(lambda p, g: run(accumulate(inner(), steps=3), p, g)[0])(params, grads)
    with permissive():
        for a, b in zip(*map(jax.tree.leaves, (ours, jax.jit(theirs)(params, grads))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_inner_optimizer_runs_once_in_k_calls():
    ran = []

    def update(updates, state, params=None):
        jax.debug.callback(lambda: ran.append(1))
        return updates, state

    tx = accumulate(base.GradientTransformation(base.no_state, update), steps=5)
    jax.block_until_ready(jax.jit(lambda p, g: run(tx, p, g))(normal(SHAPES, 0), normal(SHAPES, 1, 11)))
    jax.effects_barrier()
    assert len(ran) == 2


def test_small_gradients_in_low_precision_are_not_lost():
    """256 + 1 is 256 in bfloat16; the sum of 256 and of 255 ones is not."""
    tx = accumulate(optax.identity(), steps=256)
    params = {"w": jnp.zeros((), jnp.bfloat16)}
    state = tx.init(params)
    assert state.total["w"].dtype == jnp.float32
    grads = {"w": jnp.concatenate([jnp.full(1, 256.0), jnp.ones(255)]).astype(jnp.bfloat16)}
    updates = jax.jit(lambda s, g: jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], s, g)[1])(state, grads)
    assert updates["w"][-1] == jnp.bfloat16(511 / 256)


def test_a_schedule_bound_to_the_inner_updates_reaches_its_end():
    calls, steps = 10, 4
    updates = inner_updates(accumulate, calls, steps=steps)
    schedule = linear(1.0, updates)
    _, state = run(accumulate(sgd(schedule), steps=steps), normal(SHAPES, 0), normal(SHAPES, 1, calls))
    assert updates == 2 and states.learning_rate(state, schedule) == 0


def growing(count):
    """One gradient, then two, then three per step."""
    return jnp.minimum(count + 1, 3)


@pytest.mark.parametrize("skip", [None, optax.skip_not_finite])
@pytest.mark.parametrize("steps", [2, growing])
def test_schedules_and_skipped_gradients_are_those_of_optax(steps, skip):
    ours = accumulate(sgd(0.1, momentum=0.9), steps=steps, skip=skip)
    theirs = optax.MultiSteps(optax.sgd(0.1, momentum=0.9), steps, should_skip_update_fn=skip)
    params, grads = {"w": jnp.ones(2)}, normal({"w": (2,)}, 1, 9)["w"]
    grads = grads if skip is None else grads.at[2, 0].set(jnp.nan).at[5].set(jnp.inf)
    state, their_state = ours.init(params), theirs.init(params)
    step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for grad in grads:
        updates, state = step({"w": grad}, state, params)
        with permissive():
            expected, their_state = their_step({"w": grad}, their_state, params)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5, atol=1e-6)
    if hasattr(state, "updates"):
        assert state.updates == their_state.gradient_step > 1 and state.count == their_state.mini_step
    if skip is None:
        assert inner_updates(accumulate, 9, steps=steps) == their_state.gradient_step


@pytest.mark.parametrize("steps", [0, -1])
def test_an_invalid_number_of_steps_is_rejected(steps):
    with pytest.raises(ValueError, match=f"steps={steps} .*integer >= 1"):
        accumulate(optax.identity(), steps=steps)


MOVED = {name: case for name, case in WRAPPED.items() if not (case.needs_layers or INSIDE in case.exempt)}
QUICK = ("cautious", "lookahead")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MOVED])
def test_a_flush_steps_with_the_mean_of_what_is_collected(name):
    """Within any wrapper, as one step with the mean; afterwards there is nothing to flush."""
    case, params, grads = MOVED[name], {"w": jnp.array([[1.0, -2.0]])}, normal({"w": (1, 2)}, 1, 3)
    tx, plain = (case.wrapper(inner, **case.keywords) for inner in (accumulate(sgd(0.1), steps=4), sgd(0.1)))
    extra, state = case.extra(half_square, params, 0), tx.init(params)
    step = jax.jit(lambda grad, state: tx.update({"w": grad}, state, params, **extra)[1])
    for grad in grads["w"]:
        state = step(grad, state)
    updates, state = flush(tx, state, params, **extra)
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), grads)
    expected, inner_state = base.with_extra_args_support(plain).update(mean, plain.init(params), params, **extra)
    chex.assert_trees_all_close((updates, state.inner_state), (expected, inner_state), rtol=1e-6)
    again, unchanged = flush(tx, state, params, **extra)
    assert not np.any(again["w"])
    chex.assert_trees_all_equal(unchanged, state)


@pytest.mark.parametrize("outer", [skip_nonfinite, skip_spikes])
@pytest.mark.parametrize("steps", [4, growing])
def test_a_flush_passes_wrappers_that_skip_and_counts_an_update(outer, steps):
    params = {"w": jnp.ones(2)}
    tx = outer(accumulate(sgd(lambda count: 0.5**count), steps=steps))
    state = tx.init(params)
    step = jax.jit(tx.update)
    for _ in range(2):
        _, state = step(params, state, params)
    updates, state = flush(tx, state, params)
    assert updates["w"].tolist() == ([-1, -1] if steps == 4 else [-0.5, -0.5]) and state.inner_state.count == 0
    assert states.get(state.inner_state.inner_state, "count") == (1 if steps == 4 else 2)


@pytest.mark.parametrize("tx", [sgd(0.1), chain(accumulate(sgd(0.1))), skip_nonfinite(sgd(0.1))])
def test_a_flush_without_accumulation_around_the_optimizer_is_rejected(tx):
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="put accumulate"):
        flush(tx, tx.init(params), params)
