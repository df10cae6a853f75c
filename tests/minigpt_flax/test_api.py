"""The public interface: training, comparing and opening a run from Python."""

import inspect
import subprocess
import sys
from typing import Any, cast

import jax
import numpy as np
import optax
import pytest

import minigpt_flax as mg
from minigpt_flax.cli.parser import Parser
from minigpt_flax.cli.sample import declare
from minigpt_flax.errors import UserError
from minigpt_flax.train.restore import TrainedModel
from tests.minigpt_flax.training import ROOT, last_state, records

SMALL = {
    "preset": "nano", "data": str(ROOT / "LICENSE"), "layers": 1, "heads": 2, "width": 16, "context": 8,
    "batch_size": 4, "steps": 12, "eval_every": 6, "log_every": 1, "mesh": "data=1",
}  # fmt: skip
QUIET = {**SMALL, "quiet": True}


@pytest.fixture(autouse=True)
def as_users_have_it():
    """JAX's defaults: Optax's own optimizers don't work under the strict promotion of the other tests."""
    names = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")  # for all threads
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, ("standard", "allow"), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def plain_adam(learning_rate, b1=0.9):
    return optax.adam(learning_rate, b1=b1)


def test_the_import_is_light():
    code = "import sys, minigpt_flax; assert not {'jax', 'numpy', 'rich', 'optax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_public_name_is_there_and_documented():
    for name in mg.__all__:
        assert inspect.getdoc(getattr(mg, name)), name
        assert name in dir(mg)
    with pytest.raises(AttributeError, match="nothing"):
        mg.nothing  # noqa: B018


@pytest.mark.parametrize(
    "first", ["minigpt_flax.train.loop", "minigpt_flax.compare.statistics", "minigpt_flax.model.gpt"]
)
def test_packages_can_be_called_whatever_was_imported_before(first):
    code = (
        f"import {first} as module, minigpt_flax as mg, inspect; assert module.__name__ == {first!r}; "
        "assert 'opt' in inspect.signature(mg.train).parameters and 'seeds' in inspect.signature(mg.compare).parameters"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_transformation_trains_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = mg.train(opt=optax.adamw(3e-3), out=None, **QUIET)
    assert result.finished and result.folder is None and list(tmp_path.iterdir()) == []
    assert result.val_loss == result.history[-1]["val_loss"] < 5
    assert [record["step"] for record in result.history if "loss" in record] == list(range(1, 13))
    assert "lr" not in result.history[0]  # only the transformation knows it
    assert jax.tree.structure(result.params) == jax.tree.structure(result.run.shapes)


def test_a_transformation_equals_the_same_optimizer_by_name(tmp_path):
    spec = mg.train(
        opt="adamw(b2=0.99, weight_decay=0.1)", lr=1e-3, schedule="constant", clip="none", out=None, **QUIET
    )
    mask = jax.tree.map(lambda entry: entry.role != "vector", spec.run.layout)
    tx = optax.adamw(1e-3, b2=0.99, weight_decay=0.1, mask=mask)
    own = mg.train(opt=tx, out=None, **QUIET)
    np.testing.assert_allclose(own.val_loss, spec.val_loss, rtol=1e-5)


def test_injected_hyperparameters_are_logged():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(1.0, 0.0, 10))
    rates = [record["lr"] for record in mg.train(opt=tx, out=None, **QUIET).history if "loss" in record]
    np.testing.assert_allclose(rates[:3], [1.0, 0.9, 0.8], rtol=1e-6)


@pytest.mark.slow
def test_a_factory_trains_resumes_and_is_named_in_the_folder(tmp_path):
    how = {"opt": plain_adam, "out": tmp_path, "name": "run", **QUIET}
    mg.train(stop_after=5, **how)
    result = mg.train(resume=tmp_path / "run", quiet=True)  # known in this process
    assert int(result.state.step) == 12 and str(result.run.config.opt).endswith(":plain_adam")
    whole = mg.train(**{**how, "name": "whole"})
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert whole.history[0]["lr"] > 0
    model = mg.load(tmp_path / "run")
    assert model.generate("The ", max_tokens=5).startswith("The ")
    assert model.evaluate()["loss"] == pytest.approx(result.val_loss, rel=1e-6)


def test_a_run_with_a_transformation_needs_it_again(tmp_path):
    mg.train(opt=optax.sgd(0.1), stop_after=6, out=tmp_path, name="run", **QUIET)
    with pytest.raises(UserError, match="pass it again"):
        mg.train(resume=tmp_path / "run", quiet=True)
    assert mg.train(resume=tmp_path / "run", opt=optax.sgd(0.1), quiet=True).finished
    assert mg.load(tmp_path / "run").evaluate()["split"] == "validation"


def test_callbacks_see_every_step_and_validation():
    class Counts(mg.Callback):
        steps, validations = 0, 0

        def on_step(self, step, metrics):
            self.steps += 1

        def on_validation(self, step, results):
            self.validations += 1
            assert results["val_loss"] > 0

    counts, losses = Counts(), {}
    result = mg.train(
        out=None, callbacks=[counts, lambda step, metrics: losses.update({step: metrics["loss"]})], **QUIET
    )
    assert (counts.steps, counts.validations) == (12, 2)
    logged = {record["step"]: record["loss"] for record in result.history if "loss" in record}
    assert {step: float(loss) for step, loss in losses.items()} == logged


@pytest.mark.slow
def test_tokens_in_memory(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 30, 3000)
    small = {name: value for name, value in QUIET.items() if name != "data"}
    result = mg.train(data=tokens, out=tmp_path, name="run", stop_after=6, **small)
    assert result.run.tokenizer.vocab_size == 30 and len(result.run.data.parts[0].val) == 300
    with pytest.raises(UserError, match="--data PATH"):
        mg.train(resume=tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="another SHA-256"):
        mg.train(resume=tmp_path / "run", data=tokens[::-1].copy(), quiet=True)
    assert mg.train(resume=tmp_path / "run", data=tokens, quiet=True).finished
    pair = mg.train(data=(tokens, tokens[:200]), out=None, **small)
    assert len(pair.run.data.parts[0].val) == 200
    with pytest.raises(UserError, match="vector of non-negative integers"):
        mg.train(data=np.ones((3, 3)), out=None, **small)


def test_a_loop_of_ones_own_equals_fit(tmp_path):
    config = mg.RunConfig(**SMALL)
    run = mg.build(config, optimizer=optax.adam(1e-3))
    state = run.init()
    for step in range(config.steps):
        state, _ = run.step(state, run.batches(step))
    results = run.evaluate(state.evaluation_params)
    fitted = mg.fit(run, folder=tmp_path / "fitted")
    assert fitted.val_loss == results["val_loss"]
    again = mg.fit(run, folder=tmp_path / "fitted")  # nothing is left to do
    assert again.val_loss == results["val_loss"] and len(again.history) == len(fitted.history)
    other = mg.build(mg.RunConfig(**{**SMALL, "width": 32}), optimizer=optax.adam(1e-3))
    with pytest.raises(UserError, match="width=16, not 32"):
        mg.fit(other, folder=tmp_path / "fitted")


def test_fit_stops_when_asked_and_continues(tmp_path):
    run = mg.build(mg.RunConfig(**SMALL))
    asked = iter([False] * 5 + [True] * 9)
    assert int(mg.fit(run, folder=tmp_path / "run", stop=lambda: next(asked)).state.step) == 5
    assert mg.fit(run, folder=tmp_path / "run").finished
    mg.fit(run, folder=tmp_path / "whole")
    assert last_state(tmp_path / "run") == last_state(tmp_path / "whole")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"opt": "adanw"}, "did you mean"),
        ({"stepz": 3}, "no field 'stepz' .did you mean 'steps'"),
        ({"opt": optax.sgd(0.1), "clip": "none"}, "clip is part of the optimizer"),
        ({"opt": lambda learning_rate: optax.sgd(learning_rate)}, "has no name"),
        ({"preset": "nanoo"}, "did you mean 'nano'"),
        ({"steps": 0}, "--steps must be"),
    ],
)
def test_mistakes_are_user_errors(wrong, said):
    with pytest.raises(UserError, match=said):
        mg.train(out=None, **{**QUIET, **wrong})


def test_a_comparison_returns_a_table(tmp_path, capsys):
    table = mg.compare(opt=["sgd", plain_adam], lr=[1e-2], seeds=3, out=tmp_path, name="c", **{**SMALL, "mesh": None})
    assert {row["name"] for row in table.rows} == {"sgd", "tests.minigpt_flax.test_api:plain_adam"}
    assert all(set(row["losses"]) == {"0", "1", "2"} for row in table.rows)
    assert "no verdict: 6 seeds can decide" in " ".join(str(table).split())
    assert (table.folder / "results.md").is_file() and "2 candidates" in capsys.readouterr().out
    again = mg.compare(opt=["sgd", plain_adam], lr=[1e-2], seeds=3, out=tmp_path, name="c", **{**QUIET, "mesh": None})
    assert again.rows == table.rows and capsys.readouterr().out == ""


def test_generate_takes_every_setting_of_the_command_and_passes_it_on(monkeypatch):
    parser = Parser()
    declare(parser)
    command = {action.dest for action in parser._actions} - {"help", "folder", "step", "num", "prompt_file"}
    command -= {"compile_cache", "quiet", "json"}
    assert command == inspect.signature(TrainedModel.generate).parameters.keys() - {"self"}
    passed = {}
    monkeypatch.setattr("minigpt_flax.train.restore.sample", lambda *_, **given: passed.update(given) or ["text"])
    settings: dict[str, Any] = {"min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "special_tokens": True}
    TrainedModel(*cast(Any, [None] * 6)).generate("The", **settings)
    assert {name: passed[name] for name in settings} == settings
