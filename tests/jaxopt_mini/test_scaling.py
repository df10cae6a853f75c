"""Rules for another batch size and run length."""

import inspect
import math

import pytest

from jaxopt_mini import OPTIMIZERS
from jaxopt_mini.scaling import RATE, SCALING_RULES, rescale

WITHOUT_A_RULE = {
    *("adagrad", "adadelta", "rprop", "lars", "adafactor", "novograd", "sm3", "shampoo", "splus", "kron"),
    *("psgd", "galore", "apollo", "sophia", "came", "ldadam", "amuse"),
}


def defaults(name):
    parameters = list(inspect.signature(OPTIMIZERS[name]).parameters.values())
    return {p.name: p.default for p in parameters if p.default is not p.empty} | {RATE: 0.01, "weight_decay": 0.1}


def test_the_table_knows_every_optimizer():
    assert SCALING_RULES.keys() | WITHOUT_A_RULE == OPTIMIZERS.keys()
    assert not SCALING_RULES.keys() & WITHOUT_A_RULE


@pytest.mark.parametrize("name", SCALING_RULES)
def test_two_steps_are_one_and_the_same_run_is_the_identity(name):
    given = defaults(name)
    assert rescale(name, given, batch=1, steps=1)[0] == given
    twice, _ = rescale(name, rescale(name, given, batch=4, steps=0.5)[0], batch=0.5, steps=3)
    once, _ = rescale(name, given, batch=2, steps=1.5)
    assert_close(once, twice)
    assert twice.keys() == once.keys() == given.keys()


def assert_close(found, expected):
    for key, value in expected.items():
        assert value == found[key] or math.isclose(value, found[key], rel_tol=1e-12), key


def test_adam_follows_its_differential_equation_except_for_momentum():  # Malladi et al. 2022, Def. 5, a small change
    given, ratio = {RATE: 1e-3, "b1": 0.9, "b2": 0.99, "eps": 1e-8}, 1.01
    found, changes = rescale("adam", given, batch=ratio, steps=1 / ratio)
    assert [change.name for change in changes] == [RATE, "b2", "eps"] and found["b1"] == 0.9
    assert found[RATE] == pytest.approx(1e-3 * ratio**0.5) and found["eps"] == pytest.approx(1e-8 / ratio**0.5)
    assert 1 - found["b2"] == pytest.approx(ratio * (1 - given["b2"]), rel=1e-3)


def test_half_life_and_timescale_in_tokens_stay():
    given = {RATE: 1e-3, "b2": 0.95, "weight_decay": 0.1}
    found, _ = rescale("adamw", given, batch=8, steps=2)
    assert 8 * math.log(0.5) / math.log(found["b2"]) == pytest.approx(math.log(0.5) / math.log(0.95))
    assert found[RATE] * found["weight_decay"] / 8 == pytest.approx(1e-3 * 0.1)
    assert found[RATE] == pytest.approx(1e-3 * 8**0.5 * 16**-0.32)


def test_a_decay_that_the_learning_rate_does_not_multiply():
    given = {RATE: 1e-3, "weight_decay": 1e-4, "decay": "independent", "peak_learning_rate": 1e-3}
    found, _ = rescale("adamw", given, batch=4, steps=0.25)
    assert found["weight_decay"] == pytest.approx(4e-4) and found["peak_learning_rate"] == found[RATE]


def test_other_families():
    assert rescale("momentum", {RATE: 0.1, "decay": 0.9}, batch=4, steps=0.25)[0] == {RATE: 0.4, "decay": 0.9}
    assert rescale("adamw", {RATE: 0.02, "b2": [(0, 0.5), (9, 0.9)]}, batch=2, steps=0.5)[0]["b2"] == [
        (0, 0.25),
        (9, pytest.approx(0.81)),
    ]
    momentum = {"muon": "beta", "lion": "b2", "adan": "b2", "adamw": "b1"}
    assert all(rescale(opt, {key: 0.9}, batch=4, steps=0.25)[0] == {key: 0.9} for opt, key in momentum.items())
    assert rescale("ademamix", {"b3": 0.99}, batch=2, steps=1)[0]["b3"] == pytest.approx(0.9801)
    found, (change,) = rescale("prodigy", {RATE: 1.0, "weight_decay": 0.1}, batch=4, steps=1)
    assert found == {RATE: 1.0, "weight_decay": 0.1} and "estimates its learning rate" in str(change)


@pytest.mark.parametrize(
    ("name", "ratios", "said"),
    [
        ("adagrad", {"batch": 2, "steps": 1}, "no rule for another batch size.*adagrad"),
        ("adam", {"batch": 0, "steps": 1}, "batch must be a ratio above 0, got 0"),
        ("adam", {"batch": 2, "steps": -1}, "steps must be a ratio above 0, got -1"),
        ("adam", {"batch": math.inf, "steps": 1}, "batch must be a ratio"),
        ("adam", {"batch": math.nan, "steps": 1}, "batch must be a ratio"),
    ],
)
def test_refusals(name, ratios, said):
    with pytest.raises(ValueError, match=said):
        rescale(name, {RATE: 0.1}, **ratios)
