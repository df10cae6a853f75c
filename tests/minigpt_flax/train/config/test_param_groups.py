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
from minigpt_flax.train.config.run_config import RunConfig, resolve
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
    assert dict(summary.summary(build(in_python)))["optimizer"] == dict(summary.summary(build(typed)))["optimizer"]
    assert moved(build(in_python)) == moved(build(typed))
    assert min(moved(build(in_python)).values()) > 0
    with pytest.raises(UserError, match=r"group 'vector=lion' has no lr: write vector=lion\(lr=...\)"):
        dataclasses.replace(typed, group=groups[1:])


def test_the_summary_shows_the_optimizer_of_every_tensor():
    text = dict(summary.summary(build(config("embedding=lion(lr=0.1)"))))["optimizer"]
    assert text.splitlines()[0].startswith("lion, peak 0.1 on 2 tensors:")
    assert "adamw(b2=0.99, weight_decay=0.1) on 9 tensors:" in " ".join(text.split())


def test_a_group_of_everything_leaves_no_rest():
    run = build(config("*=lion(lr=0.1)"))
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
