"""Wrappers with a second set of parameters: slow ones, averages, those before a lookahead."""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_mini import (
    adamw,
    apply_updates,
    average_params,
    chain,
    clip_by_norm,
    ema_nesterov,
    ema_params,
    lookahead,
    masked,
    outer_nesterov,
    sgd,
    states,
)
from tests.harness import SHAPES, normal, permissive, run


def path(tx, params, grads, see=lambda state, params: params):
    """The value of ``see`` after each step."""

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = apply_updates(params, updates)
        return (params, state), see(state, params)

    return jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g)[1])(params, grads)


@pytest.mark.parametrize("reset_state", [False, True])
def test_lookahead_is_that_of_optax(reset_state):
    """Fast weights, slow weights and the inner state, after each of eleven steps."""
    arguments = {"sync_period": 3, "slow_step_size": 0.6, "reset_state": reset_state}
    theirs = optax.lookahead(optax.adamw(0.1), **arguments)

    def their_path(params, grads):
        def step(carry, grad):
            pair, state = carry
            updates, state = theirs.update(grad, state, pair)
            pair = optax.apply_updates(pair, updates)
            return (pair, state), (pair.fast, pair.slow, state.fast_state)

        pair = optax.LookaheadParams.init_synced(params)
        return jax.lax.scan(step, (pair, theirs.init(pair)), grads)[1]

    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 11)
    with permissive():
        expected = jax.jit(their_path)(params, grads)
        see = lambda state, params: (params, states.evaluation_params(state, params), state.fast_state)
        got = path(lookahead(adamw(0.1), **arguments), params, grads, see)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_average_is_the_bias_corrected_one_of_optax():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 20)
    see = lambda state, params: (params, states.evaluation_params(state, params))
    trained, averages = path(ema_params(adamw(0.1), decay=0.8), params, grads, see)
    average = optax.ema(0.8, debias=True)

    def their_average(trained):
        step = lambda state, params: average.update(params, state)[::-1]
        return jax.lax.scan(step, average.init(params), trained)[1]

    with permissive():
        chex.assert_trees_all_close(averages, jax.jit(their_average)(trained), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(trained, path(adamw(0.1), params, grads))


def test_before_the_first_step_the_parameters_are_their_average():
    params = normal(SHAPES, 0, dtype=jnp.bfloat16)
    state = ema_params(sgd(0.1)).init(params)
    assert state.average["embed"].dtype == jnp.float32
    chex.assert_trees_all_equal(states.evaluation_params(state, params), params)


def test_averages_are_found_in_chains_under_masks_and_in_each_other():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 3)
    mask = {"embed": True, "blocks": {"kernel": True, "bias": False}, "scale": True}
    tx = chain(clip_by_norm(1.0), masked(ema_params(sgd(0.1), decay=0.5), mask))
    new, state = run(tx, params, grads)
    found = states.evaluation_params(state, new)
    chex.assert_trees_all_equal(found["embed"], state[1].inner_state.average["embed"])
    chex.assert_trees_all_equal(found["blocks"]["bias"], new["blocks"]["bias"])
    new, state = run(ema_params(lookahead(sgd(0.1))), params, grads)
    chex.assert_trees_all_equal(states.evaluation_params(state, new), state.average)


def test_averages_in_low_precision_go_on_moving():
    """A step of one thousandth is lost when computed in bfloat16."""
    tx = ema_params(optax.identity(), decay=0.999)
    params = {"w": jnp.ones((), jnp.bfloat16)}
    _, state = run(tx, params, {"w": jnp.full(1, 0.0, jnp.bfloat16)})
    _, state = run(tx, {"w": 2 * params["w"]}, {"w": jnp.zeros(9, jnp.bfloat16)}, state)
    assert 1.8 < state.average["w"] < 2.0


@pytest.mark.parametrize(
    "wrapper, name",
    [
        (lookahead, "sync_period"),
        *((ema_params, name) for name in ("start", "every")),
        *((average_params, name) for name in ("window", "start", "every")),
    ],
)
def test_an_invalid_number_of_steps_is_rejected(wrapper, name):
    with pytest.raises(ValueError, match=f"{name}=0 .*integer >= 1"):
        wrapper(sgd(0.1), **{name: 0})


@pytest.mark.parametrize("average", [ema_params, average_params])
def test_before_the_first_snapshot_the_parameters_are_evaluated(average):
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 3)
    new, state = run(average(sgd(0.1), start=4), params, grads)
    chex.assert_trees_all_equal(states.evaluation_params(state, new), new)


KEPT = (  # keywords of average_params -> the steps whose parameters are in the mean after step 7
    ({"window": 2, "every": 2, "start": 2}, (4, 6)),
    ({"window": 2, "every": 2, "start": 2, "rolling": False}, (6,)),
    ({"window": None, "every": 3, "start": 1}, (1, 4, 7)),
    ({"window": 1}, (7,)),
    ({"window": 10**12, "rolling": False, "every": 10**12, "start": 3}, (3,)),
    ({"window": 4, "every": 2, "start": 2}, (7,)),  # not full
)


@pytest.mark.parametrize("keywords, steps", KEPT)
def test_the_mean_is_that_of_the_snapshots(keywords, steps):
    params, grads = {"w": jnp.zeros(2)}, {"w": normal((2,), 1, 7)}
    new, state = run(average_params(sgd(1.0), **keywords), params, grads)
    path = -jnp.cumsum(grads["w"], axis=0)
    found = states.evaluation_params(state, new)["w"]
    chex.assert_trees_all_close(found, sum(path[step - 1] for step in steps) / len(steps), rtol=1e-5, atol=1e-6)


AVERAGES = (
    functools.partial(average_params, window=2),
    functools.partial(ema_nesterov, start=1),
    ema_params,
    functools.partial(lookahead, sync_period=2),
    functools.partial(outer_nesterov, sync_period=2),
)


@pytest.mark.parametrize("average", AVERAGES)
def test_a_masked_parameter_is_evaluated_as_it_is(average):
    params, grads = normal({"in": (2,), "out": (2,)}, 0), normal({"in": (2,), "out": (2,)}, 1, 3)
    new, state = run(masked(average(sgd(0.1)), {"in": True, "out": False}), params, grads)
    found = states.evaluation_params(state, new)
    assert (found["out"] == new["out"]).all() and (found["in"] != new["in"]).any()


def test_outer_steps_without_momentum_are_those_of_lookahead():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 7)
    see = lambda state, params: (params, states.evaluation_params(state, params))
    outer = outer_nesterov(adamw(0.1), sync_period=3, outer_learning_rate=0.4, outer_momentum=0.0)
    ours, theirs = (path(tx, params, grads, see) for tx in (outer, lookahead(adamw(0.1), 3, 0.4)))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_peak_of_a_lookahead_is_the_largest_learning_rate_so_far():
    """From a warm-up on, it is the peak of the schedule; without a learning rate there is no scale."""
    rate = lambda count: jnp.asarray([0.0, 0.1, 0.2, 0.1, 0.05, 0.02])[count]
    params, grads = {"w": jnp.zeros(2)}, {"w": normal((2,), 1, 6)}
    see = lambda state, params: (state.ahead, params)

    def run_with(**keywords):
        return path(ema_nesterov(sgd(rate), step_size=0.5, start=0, **keywords), params, grads, see)

    assert run_with()[0].tolist() == [0.5] * 6
    ahead = run_with(learning_rate=rate)[0]
    chex.assert_trees_all_close(ahead, jnp.asarray([0.0, 0.5, 0.5, 0.25, 0.125, 0.05]), rtol=1e-5)
    given = run_with(learning_rate=rate, peak_learning_rate=0.2, stop=5)[0]
    chex.assert_trees_all_close(given, jnp.asarray([0.0, 0.25, 0.5, 0.25, 0.0, 0.0]), rtol=1e-5)


def test_a_power_gives_later_snapshots_more_weight():
    """The polynomial-decay average of DoG's authors."""
    params, grads, power = {"w": jnp.zeros(2)}, {"w": jnp.arange(10.0).reshape(5, 2)}, 8.0
    tx = average_params(sgd(1.0), window=None, power=power)
    state, expected = tx.init(params), 0.0
    for t in range(1, 6):
        updates, state = tx.update({"w": grads["w"][t - 1]}, state, params)
        params = apply_updates(params, updates)
        share = (power + 1) / (power + t)
        expected = expected * (1 - share) + share * params["w"]
        chex.assert_trees_all_close(states.evaluation_params(state, params)["w"], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="power=2.0 needs a running mean: give rolling=False or window=None"):
        average_params(sgd(1.0), window=3, power=2.0)
