"""The logged learning rate is the applied one, under every wrapper, and a schedule comes to its end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import WRAPPERS
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig
from tests.minigpt_flax.training import ROOT

SMALL = {
    "preset": "nano", "data": str(ROOT / "LICENSE"), "layers": 1, "heads": 2, "width": 16, "context": 8,
    "batch_size": 4, "steps": 12, "mesh": "data=1", "clip": "none", "schedule": "linear",
}  # fmt: skip


@functools.cache
def logged(**changes):
    """The logged learning rate of every step, and the size of the step in the weights."""
    run = build(RunConfig(**{**SMALL, **changes}))
    state, rates, moves = run.init(), [], []
    for step in range(run.config.steps):
        before = jax.tree.map(jnp.copy, state.params)
        state, metrics = run.step(state, run.batches(step))
        rates.append(float(metrics["lr"]))
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, state.params)
        moves.append(max(jax.tree.leaves(moved)))
    return np.array(rates), np.array(moves)


QUICK = ("cautious", "schedule_free", "skip_nonfinite")  # of each kind one


@pytest.mark.parametrize(
    "wrapper",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WRAPPERS if name != "accumulate"],
)
def test_a_wrapper_that_steps_every_time_logs_the_schedule(wrapper):
    plain, _ = logged(opt="adam", lr=1e-2)
    wrapped, _ = logged(opt="adam", lr=1e-2, wrap=(wrapper,))
    np.testing.assert_array_equal(plain, wrapped)


def test_the_size_of_a_step_of_sign_descent_is_the_logged_rate():
    rates, moves = logged(opt="sign_sgd(weight_decay=0.0)", lr=1e-2)
    np.testing.assert_allclose(moves, rates, rtol=1e-4)


def test_accumulation_logs_the_applied_rate_and_the_schedule_ends():
    rates, moves = logged(opt="sign_sgd(weight_decay=0.0)", lr=1e-2, wrap=("accumulate(steps=4)",))
    assert [step for step, move in enumerate(moves, start=1) if move] == [4, 8, 12]
    np.testing.assert_allclose(moves[3::4], rates[3::4], rtol=1e-4)
    plain, _ = logged(opt="sign_sgd(weight_decay=0.0)", lr=1e-2, steps=3)
    np.testing.assert_array_equal(rates[3::4], plain)  # three updates take the whole schedule


def test_skipped_steps_do_not_advance_it():
    run = build(RunConfig(**{**SMALL, "opt": "sgd", "lr": 1.0, "on_nan": "skip"}))
    state, rates = run.init(), []
    for step in range(4):
        if step == 1:  # a NaN in the weights, for one step
            good, state = state, state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
        state, metrics = run.step(jax.tree.map(jnp.copy, state), run.batches(step))
        if step == 1:
            state = state._replace(params=good.params)
        rates.append(float(metrics["lr"]))
    assert rates[1] == rates[2] < rates[0] and rates[3] < rates[2]


def test_groups_log_the_runs_own_rate():
    own, _ = logged(opt="adam", lr=1e-2)
    grouped, _ = logged(opt="adam", lr=1e-2, group=("embedding=adam(lr=0.5)",))
    np.testing.assert_array_equal(own, grouped)
