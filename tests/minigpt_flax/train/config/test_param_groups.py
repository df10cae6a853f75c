"""Parameter groups and wrappers, from the spec to the update."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxopt_mini import states
from jaxopt_mini.tree import path_name
from minigpt_flax.console import summary
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import build
from minigpt_flax.train.config.param_groups import assign, read_complete
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.optimizer import schedules_of
from tests.minigpt_flax.training import TINY, records, resume, start


def config(*group, **changes):
    given = {name.replace("-", "_"): value for name, value in TINY.items() if name != "preset"}
    return resolve(given | {"data": str(TINY["data"]), "group": group} | changes, "nano")


def moved(run):
    """By parameter, the largest movement of the first step."""
    state = run.init()
    before = jax.tree.map(np.asarray, state.params)
    after, _ = run.step(state, run.batches(0))
    change = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), before, after.params)
    return {path_name(path): size for path, size in jax.tree.leaves_with_path(change)}


def test_each_group_has_its_own_optimizer_and_learning_rate():
    run = build(
        config("embedding=sign_sgd(lr=0.5)", "*/mlp/*=adamw(weight_decay=0.0, lr_scale=0)", schedule="constant")
    )
    rates = {name: 0.5 if "embedding" in name else 0.0 if "mlp" in name else run.config.lr for name in moved(run)}
    # Adam's first step, too, is the rate times the sign; matrices also decay, by a ten-thousandth of themselves.
    np.testing.assert_allclose([*moved(run).values()], [*rates.values()], rtol=0.03)


def test_open_arguments_of_a_group_are_filled_in():
    run = config("vector=adamw(b2=0.9)", "head=lion(lr=1e-4)", tie_head=False)
    texts = [str(group) for group in run.group]
    assert texts == [f"vector=adamw(b2=0.9, weight_decay=0.1, lr={run.lr})", "head=lion(lr=0.0001)"]
    assert config(*texts, tie_head=False) == config(*run.group, tie_head=False) == run


def test_a_group_without_a_rate_takes_the_same_however_the_config_was_made():
    groups = ("matrix=adamw(b2=0.9)", "vector=lion")
    typed = config(*groups)
    in_python = RunConfig(**{name: value for name, value in vars(typed).items() if name != "seed"} | {"group": groups})
    assert in_python == typed
    first, second = build(in_python), build(typed)
    assert summary._optimizers(first) == summary._optimizers(second)
    assert summary._learning_rates(first) == summary._learning_rates(second)
    found = moved(first)
    assert found == moved(second) and min(found.values()) > 0
    with pytest.raises(UserError, match=r"group 'vector=lion' has no lr: write vector=lion\(lr=...\)"):
        dataclasses.replace(typed, group=groups[1:])


def test_the_summary_shows_the_optimizer_of_every_tensor():
    plan = dict(summary.summary(build(config("embedding=lion(lr=0.1, schedule='constant')", "vector=frozen"))))
    optimizers = " ".join(plan["optimizer"].split())
    for words in ("lion on 2 tensors: ", "frozen on 3 tensors: ", "adamw(b2=0.99, weight_decay=0.1) on 6 tensors: "):
        assert words in optimizers
    rest, *groups = plan["lr"].splitlines()
    assert rest.startswith("rest: peak ") and groups == ["embedding: peak 0.1, constant"]
    assert "none on 3 tensors: " in plan["decay"] and "constant multiple" not in plan["decay"]


def test_a_group_of_everything_leaves_no_rest():
    run = build(config("*=lion(lr=0.1, schedule='constant')"))
    assert summary._learning_rates(run) == "*: peak 0.1, constant"
    assert summary._optimizers(run).startswith("lion on 11 tensors: ") and " on 0 " not in summary._optimizers(run)
    assert list(states.get(jax.eval_shape(run.init).opt_state, "inner_states")) == ["0"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (["embeding=lion"], r"'embeding' covers no parameter \(did you mean 'embedding'\?\); roles: embedding, matrix"),
        (["matrix=lion", "*/mlp/*=adamw"], "blocks/mlp/down/kernel is in the groups 'matrix' and '\\*/mlp/\\*'"),
        (["embedding"], "is not WHERE=SPEC"),
        (["embedding=lion(lr=-1)"], "lr must be at least 0"),
        (["embedding=lion(lr_scale='x')"], "lr_scale must be a number"),
        (["embedding=lionn"], "did you mean 'lion'"),
        (["embedding=lion(b1=2.0)"], "b1"),
    ],
)
def test_mistakes_are_one_line(group, message):
    with pytest.raises(UserError, match=message):
        build(config(*group))


WRONG_WRAPPERS = ["cautios", "cautious(scale=1)", "lookahead(sync_period=0)", "accumulate(step=2)"]
WRONG_WRAPPERS += [f"accumulate(steps={steps})" for steps in ("0", "-3", "1.5", "'x'", "inf")]


@pytest.mark.parametrize("spec", WRONG_WRAPPERS)
def test_mistaken_wrappers_are_one_line(spec):
    with pytest.raises(UserError, match="cautious|sync_period|steps") as error:
        build(config(wrap=(spec,)))
    assert "\n" not in str(error.value)


def test_wrappers_get_the_schedule_and_the_loss():
    """The decay of ``cautious_decay`` follows the run's schedule, and ``sam`` and ``sophia`` call the loss."""
    specs = ("cautious_decay(weight_decay=0.1)", "sam(rho=0.01)")
    run = build(config(wrap=specs, opt="sophia", schedule="constant"))
    state, metrics = run.step(run.init(), run.batches(0))
    assert np.isfinite(metrics["loss"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_validation_takes_the_average_and_the_run_resumes(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ["--wrap=ema_params(decay=0.9)", "--group=embedding=lion(lr=1e-3)"]
    start(whole, *more)
    start(parts, *more, "--stop-after=11")
    assert resume(parts, *more) == 0
    assert records(parts) == records(whole)
    plain = tmp_path / "plain"
    start(plain, more[1])
    losses = [
        {line["step"]: line["val_loss"] for line in records(path) if "val_loss" in line} for path in (whole, plain)
    ]
    assert losses[0] != losses[1]


ROLES = {"table": "embedding", "blocks/up/kernel": "matrix", "blocks/up/bias": "vector", "norm/scale": "vector"}
LAYERS = {"blocks/up/kernel": 4, "blocks/up/bias": 4}


@pytest.mark.parametrize(
    ("groups", "kernel", "bias"),
    [
        (["blocks[0:2]/*"], ("0", "0", "rest", "rest"), ("0", "0", "rest", "rest")),
        (["matrix[-1]", "blocks[0]/*"], ("1", "rest", "rest", "0"), ("1", "rest", "rest", "rest")),
        (["vector[1:]"], "rest", ("rest", "0", "0", "0")),
        (["blocks[:]/*"], "0", "0"),
        (["blocks[:2]/*", "blocks[2:]/*"], ("0", "0", "1", "1"), ("0", "0", "1", "1")),
    ],
)
def test_an_index_selects_layers(groups, kernel, bias):
    found = assign([read_complete(f"{where}=sgd(lr=0.1)") for where in groups], ROLES, LAYERS)
    assert found == {"table": "rest", "blocks/up/kernel": kernel, "blocks/up/bias": bias, "norm/scale": "rest"}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["blocks[4]/*"], "the model has 4 layers, 0 to 3"),
        (["blocks[1:9]/*"], "the model has 4 layers"),
        (["blocks[2:1]/*"], "the model has 4 layers"),
        (["embedding[0]"], "covers no parameter that is stacked over layers"),
        (["matrix[-1]", "blocks[2:]/*"], r"layer 3 of blocks/up/kernel is in the groups 'matrix\[-1\]' and"),
    ],
)
def test_layers_that_are_missing_or_in_two_groups_are_refused(groups, said):
    with pytest.raises(UserError, match=said):
        assign([read_complete(f"{where}=sgd(lr=0.1)") for where in groups], ROLES, LAYERS)


def test_a_frozen_layer_stays_and_the_others_train():
    run = build(config("blocks[0]/*=frozen", "blocks[1]/mlp/*=sign_sgd(lr=0.5)", layers=2, schedule="constant"))
    state = run.init()
    before = jax.tree.map(np.asarray, state.params)
    after, _ = run.step(state, run.batches(0))
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(tuple(range(1, a.ndim))), before, after.params)["blocks"]
    assert all(layer[0] == 0 < layer[1] for layer in jax.tree.leaves(change))
    assert change["mlp"]["up"]["kernel"][1] == pytest.approx(0.5)
    assert change["attention"]["query"]["kernel"][1] < 0.1
    shown = summary._optimizers(run)
    assert "blocks[0]/mlp/{down,up}/kernel" in shown and "blocks[1]/mlp/{down,up}/kernel" in shown


def test_a_group_has_its_own_schedule():
    settings = config("embedding=sgd(lr=0.5, schedule='linear(floor=0.5)')", schedule="constant", lr=0.1, steps=10)
    own, group = schedules_of(settings)
    assert [float(own(t)) for t in (0, 5)] == pytest.approx([0.1, 0.1])
    assert [float(group(t)) for t in (0, 5)] == pytest.approx([0.5, 0.375])
    assert config(*map(str, settings.group), schedule="constant", lr=0.1, steps=10) == settings
    with pytest.raises(UserError, match="schedule of a group takes a spec in quotes"):
        config("embedding=sgd(schedule=3)")
    with pytest.raises(UserError, match="no schedule is called 'wds'"):
        build(config("embedding=sgd(schedule='wds')"))
