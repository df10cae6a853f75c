"""Keywords that vary over a run: against Optax's injection, resumed bit for bit, refused in one line."""

import chex
import optax
import pytest

from jaxopt_mini import ParamLayout
from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.varied import piecewise
from tests.harness import normal, permissive
from tests.minigpt_flax.training import TINY, records, resume, start

LAYOUT = {"w": ParamLayout("matrix", inputs=(0,), outputs=(1,))}


def built(opt, **more):
    given = {"opt": opt, "schedule": "linear", "lr": 0.1, "steps": 8, "clip": "none", **more}
    return build_optimizer(resolve(given, "nano"), LAYOUT)[1]


def test_a_keyword_follows_its_points():
    schedule = optax.linear_schedule(0.5, 0.9, 4)
    theirs = optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 8), b1=schedule, b2=0.9)
    ours = built("adamw(b1=[(0, 0.5), (4, 0.9)], b2=0.9, weight_decay=0.0001)")
    params = normal({"w": (3, 2)}, 0)
    with permissive():
        states = [ours.init(params), theirs.init(params)]
    for seed in range(6):
        grads = normal({"w": (3, 2)}, seed + 1)
        a, states[0] = ours.update(grads, states[0], params)
        with permissive():
            b, states[1] = theirs.update(grads, states[1], params)
        chex.assert_trees_all_close(a, b, rtol=2e-5)


def test_times_are_updates_or_fractions_of_the_run():
    assert [float(piecewise([(2, 1.0), (4, 3.0)], 10)(t)) for t in (0, 3, 9)] == [1.0, 2.0, 3.0]
    assert [float(piecewise([(0.0, 1.0), (1.0, 3.0)], 10)(t)) for t in (0, 5)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("opt", "said"),
    [
        ("adamw(b2=[])", "takes pairs"),
        ("adamw(b2=[(0, 0.9), (0, 0.99)])", "times increase"),
        ("adamw(b2=[(0, 0.9), (1.5, 0.99)])", "fractions of the run from 0.0 to 1.0"),
        ("adamw(b2=[0.9, 0.99])", "takes pairs"),
        ("adamw(b2=[(0, 'x')])", "takes pairs"),
        ("adamw(b2=[(0, 0.9), (4, 1.5)])", "b2=1.5 is out of range"),
        ("adamw(beta2=[(0, 0.9)])", "no keyword 'beta2'"),
        ("muon(ns_steps=[(0, 3), (4, 5)])", "ns_steps can't vary"),
        ("sgd(nesterov=[(0, True)])", "nesterov can't vary"),
    ],
)
def test_what_can_not_vary_is_refused(opt, said):
    with pytest.raises(UserError, match=said):
        built(opt)


@pytest.mark.slow
def test_a_resumed_run_goes_on_where_the_points_are(tmp_path):
    how = {
        "opt": "muon(beta=[(0, 0.5), (1.0, 0.95)])",
        "group": "blocks[0]/*=sgd(lr=0.01, schedule='constant')",
        "layers": 2,
    }
    start(tmp_path / "whole", **how)
    start(tmp_path / "parts", **how, stop_after=TINY["steps"] // 2)
    resume(tmp_path / "parts")
    losses = [[record.get("loss") for record in records(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) > 1
