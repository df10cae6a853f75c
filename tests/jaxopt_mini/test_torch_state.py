"""States of PyTorch's optimizers, recorded: each continues here with PyTorch's numbers, and converts back unchanged."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.torch_states import (
    MATRICES,
    NAMES,
    PAIRS,
    RECORDED,
    SHAPES,
    arrays_of,
    deviations,
    module_of,
    problem,
    run_here,
)
from jaxopt_mini import (
    accumulate,
    adam,
    adamw,
    chain,
    ema_params,
    inject_hyperparams,
    muon,
    partition,
    sgd,
    soap,
    states,
)
from jaxopt_mini.torch_state import TorchParameter, from_torch, params_from_torch, params_to_torch, to_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "torch" / "states.npz"
FIRST, LAST = RECORDED
EXACT = {name: pair for name, pair in PAIRS.items() if name != "Muon"}  # whose iteration in bfloat16 differs
QUICK = ("SGD (momentum)", "Adam", "Adagrad", "RMSprop (centered, momentum)", "AdamWScheduleFree")
pairs = pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in EXACT])


@functools.cache
def recording():
    return dict(np.load(GOLDEN))


def recorded(name):
    """Parameters and state dict after five steps, parameters after seven."""
    found = recording()
    params = [{key.split("/")[2]: found[key] for key in found if key.startswith(f"{name}/{n}/")} for n in RECORDED]
    return jax.tree.map(jnp.asarray, params[0]), arrays_of(str(found[f"{name}/saved"])), params[1]


def converted(name):
    params, saved, _ = recorded(name)
    tx = PAIRS[name].here()
    steps = None if PAIRS[name].counted else FIRST
    return params, saved, tx, from_torch(saved, tx.init(params), params, PAIRS[name].names, steps=steps)


@pairs
def test_a_run_of_pytorch_continues(name):
    params, _, tx, state = converted(name)
    ends, _ = run_here(tx, problem(PAIRS[name].names), params, state, range(FIRST, LAST), compiled=False)
    for path, expected in recorded(name)[2].items():
        np.testing.assert_allclose(ends[path], expected, atol=2e-6)
        assert np.abs(expected - params[path]).max() > 1e-3


@pytest.mark.parametrize("name", EXACT)
def test_a_state_converts_back_unchanged(name):
    params, saved, _, state = converted(name)
    fresh = {**saved, "state": {}}
    back = to_torch(state, params, fresh, PAIRS[name].names, steps=FIRST)
    assert back["state"].keys() == saved["state"].keys()
    for number, entry in saved["state"].items():
        assert {key for key, value in entry.items() if value is not None} == back["state"][number].keys()
        for key, value in back["state"][number].items():
            same(value, entry[key])
    for theirs, ours in zip(saved["param_groups"], back["param_groups"], strict=True):
        assert theirs.keys() == ours.keys()
        numbers = {key: value for key, value in theirs.items() if isinstance(value, float)}
        assert numbers == pytest.approx({key: ours[key] for key in numbers}, 1e-6)


def same(value, expected):
    """Compare arrays, or lists of arrays."""
    pairs = zip(value, expected, strict=True) if isinstance(value, list) else [(value, expected)]
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_fifty_steps_each_way_with_pytorch_itself(name):
    pytest.importorskip("torch")
    module = module_of(PAIRS[name].module, None)
    if module is None or PAIRS[name].float32:
        pytest.skip("the authors' file is not installed")
    assert max(deviations(PAIRS[name], module).values()) < 1e-5


def test_two_optimizers_share_the_parameters_of_one():
    """Muon on the matrices and AdamW on the vector, inside wrappers, with a schedule."""
    params, moments, _ = recorded("AdamW")
    _, buffers, _ = recorded("Muon (float32)")
    tx = ema_params(chain(muon(lambda count: 0.02, debias=False)))
    state = from_torch(buffers, tx.init(params), params, MATRICES, steps=5)
    own = {"state": {0: moments["state"][2]}, "param_groups": [{"params": [0]}]}
    state = from_torch(own, state, params, ["bias"])
    counts = {path: int(count) for path, count in states.get_all(state, "count").items()}
    assert {path for path, count in counts.items() if count != 5} == {"EmaParamsState.count"}
    np.testing.assert_array_equal(states.get(state, "MuonState.mu")["first"], buffers["state"][0]["momentum_buffer"].T)
    np.testing.assert_array_equal(states.get(state, "ScaleByAdamState.nu")["bias"], moments["state"][2]["exp_avg_sq"])


@pytest.mark.parametrize("around", [lambda tx: inject_hyperparams(adamw)(lambda count: 0.1), accumulate])
def test_counts_of_schedules_continue_but_not_those_of_wrappers(around):
    params, saved, _ = recorded("AdamW")
    tx = around(adamw(lambda count: 0.1))
    kept, moved = (from_torch(saved, tx.init(params), params, NAMES, schedules=flag) for flag in (False, True))
    assert [int(states.get(kept, f"ScaleBy{name}State.count")) for name in ("Adam",)] == [5]
    assert int(states.learning_rate(moved, lambda count: count)) == 5
    assert int(states.learning_rate(kept, lambda count: count)) == 0
    if around is accumulate:
        assert moved.count == 0


def test_stacked_layers_and_fused_tensors():
    """Two layers whose queries and keys are one Linear there."""
    params = {name: jnp.arange(i, i + 12.0).reshape(2, 3, 2) for i, name in enumerate(("key", "query"))}
    names = [TorchParameter(("query", "key"), transpose=True, index=(i,)) for i in range(2)]
    tensors = params_to_torch(params, names)
    assert [tensor.shape for tensor in tensors] == [(4, 3), (4, 3)]
    np.testing.assert_array_equal(tensors[1][:2].T, params["query"][1])
    back = params_from_torch(tensors, jax.tree.map(jnp.zeros_like, params), names)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    tx = adam(0.1)
    entries = {i: {"step": 3, "exp_avg": tensor, "exp_avg_sq": 2 * tensor} for i, tensor in enumerate(tensors)}
    state = from_torch({"state": entries, "param_groups": [{"params": [0, 1]}]}, tx.init(params), params, names)
    jax.tree.map(np.testing.assert_array_equal, state[0].mu, params)
    with pytest.raises(ValueError, match=r"query\+key\[0\]: the factors of ScaleBySoapState"):
        saved = {"state": entries, "param_groups": [{"params": [0, 1]}]}
        from_torch(saved, soap(0.1).init(params), params, names)


def test_parameters_by_their_names_there():
    params, saved, _ = recorded("Adam")
    group = {**saved["param_groups"][0], "param_names": ["a.weight", "b.weight", "b.bias"]}
    names = dict(zip(("b.bias", "b.weight", "a.weight"), NAMES[::-1], strict=True))
    by_name = from_torch({**saved, "param_groups": [group]}, adam(0.1).init(params), params, names)
    jax.tree.map(np.testing.assert_array_equal, by_name, from_torch(saved, adam(0.1).init(params), params, NAMES))


def test_before_the_first_step_there_is_nothing_to_convert():
    params, saved, _ = recorded("Adam")
    assert to_torch(adam(0.1).init(params), params, {**saved, "state": {}}, NAMES)["state"] == {}


def without(saved, *keys):
    for key in keys[:-1]:
        saved = saved[key]
    del saved[keys[-1]]


REFUSED = {
    "first: PyTorch has no 'exp_avg_sq', which ScaleByAdamState needs": lambda s: without(s, "state", 0, "exp_avg_sq"),
    "second: PyTorch has no 'exp_avg'.* no values": lambda s: s["state"].pop(1),
    r"bias: PyTorch's exp_avg has shape \(7,\) instead of \(8,\)": lambda s: s["state"][2].update(exp_avg=np.ones(7)),
    r"first: .*\(6, 4\) instead of \(4, 6\), its transpose": lambda s: s["state"][0].update(exp_avg=np.ones((6, 4))),
    "first: no state here has a place for PyTorch's 'max_exp_avg_sq'": lambda s: s["state"][0].update(
        max_exp_avg_sq=np.ones((4, 6))
    ),
    "bias: PyTorch has done 9 steps, and 5 on others": lambda s: s["state"][2].update(step=9),
    "bias: PyTorch's 'step' must be a number": lambda s: s["state"][2].update(step=float("nan")),
    "PyTorch has 2 parameters in its groups, got 3 names": lambda s: s["param_groups"][0]["params"].pop(),
    "must number their parameters": lambda s: s["param_groups"][0].update(params=[0, 1, [2]]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_state_that_does_not_fit_is_refused_by_name(message):
    params, saved, _ = recorded("Adam")
    saved = copy.deepcopy(saved)
    REFUSED[message](saved)
    with pytest.raises(ValueError, match=message) as error:
        from_torch(saved, adam(0.1).init(params), params, NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "tx", "message"),
    [
        ("SGD (momentum)", adam(0.1), "first: PyTorch has no 'exp_avg'.*it has momentum_buffer"),
        ("Adam", sgd(0.1, momentum=0.9), "first: PyTorch has no 'momentum_buffer', which TraceState"),
        ("Adam", sgd(0.1), "first: no state here has a place for PyTorch's 'exp_avg'"),
        (
            "Adam",
            partition({"a": adam(0.1), "b": sgd(0.1)}, dict.fromkeys(SHAPES, "a") | {"bias": "b"}),
            "bias: no state",
        ),
        ("SGD (momentum)", sgd(lambda count: 0.1, momentum=0.9), "needs the number of completed steps"),
        ("SOAP (one side)", soap(0.1), r"first: factors/0 has shape \(\) in PyTorch and|second: factors/1"),
    ],
)
def test_another_optimizer_is_refused(name, tx, message):
    params, saved, _ = recorded(name)
    with pytest.raises(ValueError, match=message):
        from_torch(saved, tx.init(params), params, NAMES)


def test_names_are_those_of_the_parameters():
    params, saved, _ = recorded("Adam")
    state = adam(0.1).init(params)
    for names, message in (([*NAMES[:2], "bais"], "did you mean 'bias'"), ([*NAMES[:2], "second"], "two parameters")):
        with pytest.raises(ValueError, match=message):
            from_torch(saved, state, params, names)
    with pytest.raises(ValueError, match="first: the state here has no 'momentum_buffer'"):
        to_torch(state, params, recorded("SGD (momentum)")[1], NAMES, steps=5)


def test_parameters_of_an_averaged_model_are_refused():
    params, saved, _ = recorded("AdamWScheduleFree")
    saved["param_groups"][0]["train_mode"] = False
    tx = PAIRS["AdamWScheduleFree"].here()
    with pytest.raises(ValueError, match="train_mode=False: call its train"):
        from_torch(saved, tx.init(params), params, NAMES)
