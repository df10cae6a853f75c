"""The runs of a comparison obey the flags of a run, alone and in one program, and continue where they stopped."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from minigpt_flax.compare.comparison import Comparison, check
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.runner import run_comparison
from minigpt_flax.compare.sweep import is_finished
from minigpt_flax.compare.traced_run import trace_run
from minigpt_flax.data import PhaseBatches
from minigpt_flax.errors import Diverged, UserError
from minigpt_flax.runs.records import RunRecord, read_run
from minigpt_flax.train.build import build
from minigpt_flax.train.checkpoint import NoCheckpoints
from minigpt_flax.train.config.run_config import as_text, resolve
from minigpt_flax.train.config.stored import to_json
from minigpt_flax.train.reporter import StepTimer
from minigpt_flax.train.store import Store
from minigpt_flax.train.supervisor import History, Supervisor
from tests.minigpt_flax.runs.test_loggers import events, same, written
from tests.minigpt_flax.training import KEPT, TINY, compiled, last_state, records, start

NOT_SHARED = ("preset", "data", "mesh")
SHARED = {name.replace("-", "_"): value for name, value in TINY.items() if name not in NOT_SHARED}
GIVEN = {**SHARED, "data": (str(TINY["data"]),), "steps": 12, "eval_every": 4}
BATCH = PhaseBatches.__call__
together = pytest.mark.parametrize("vmap", [False, True], ids=["alone", "vmap"])


@pytest.fixture(autouse=True, scope="module")
def cached():
    """Keeps compiled programs for all tests."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (compiled(), KEPT), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def compared(folder, vmap=False, status=0, **changes):
    """Trains two optimizers with two seeds each; returns the folders of the runs by optimizer and seed."""
    comparison = check(Comparison("nano", GIVEN | changes, ("adamw", "sgd"), (), (), False, (0, 1)), fewest=2)
    assert run_comparison(comparison, folder, vmap=vmap, shown=False) == status
    found = {}
    for candidate in comparison.candidates:
        for seed in comparison.seeds:
            config = comparison.config(candidate, seed=seed)
            found[candidate.name, seed] = comparison.path(folder, candidate, config)
    return found


def poison(monkeypatch, step, seed):
    """Puts a token that no embedding has into one batch of one seed: the model's loss is NaN."""
    bad = lambda self, t: BATCH(self, t) + (10**6 if (t, self._batches._seed) == (step, seed) else 0)
    monkeypatch.setattr(PhaseBatches, "__call__", bad)


@pytest.mark.parametrize(("policy", "continues"), [("stop", False), ("skip", True)])
def test_a_skipped_step_ends_only_a_run_whose_policy_does_not_skip(policy, continues):
    run = build(resolve({**GIVEN, "mesh": "data=1", "on_nan": policy}, "nano"))
    one = trace_run(run, run.config.steps).single(run.config)
    assert ("skipped_in_a_row" in jax.eval_shape(one.step, run.state, run.batches(0))[1]) == continues
    store, state = Store(None, NoCheckpoints()), one.init()
    supervisor = Supervisor(one, state, store, [], StepTimer(), history := History([]), tolerant=True)
    squares = np.full(len(jax.tree.leaves(run.shapes)), np.nan)
    supervisor.on_step(3, {"loss": np.nan, "grad_norm": np.nan, "grad_squares": squares, "skipped_in_a_row": 1})
    assert supervisor.diverged is None if continues else isinstance(supervisor.diverged, Diverged)
    record = RunRecord("run", as_text(run.config), history.records, {})
    assert record.state == ("unfinished" if continues else "diverged")


@together
@pytest.mark.parametrize(("policy", "state"), [("stop", "diverged"), ("skip", "finished")])
def test_a_non_finite_step_affects_its_own_run_only(tmp_path, monkeypatch, vmap, policy, state):
    poison(monkeypatch, 5, seed=1)
    runs = compared(tmp_path / "c", vmap, on_nan=policy)
    assert {name: read_run(path).state for name, path in runs.items()} == {
        ("adamw", 0): "finished",
        ("adamw", 1): state,
        ("sgd", 0): "finished",
        ("sgd", 1): state,
    }
    losses = [line["loss"] for line in records(runs["adamw", 1]) if "loss" in line]
    assert losses[5] is None and all(losses[:5])
    if policy == "skip":
        assert all(losses[6:]) and [line["skipped"] for line in records(runs["adamw", 1]) if "skipped" in line][-1] == 1
        assert all(line.get("skipped", 0) == 0 for line in records(runs["adamw", 0]))


@pytest.mark.slow
def test_rollback_continues_from_a_checkpoint_without_the_batch(tmp_path, monkeypatch):
    poison(monkeypatch, 5, seed=1)
    runs = compared(tmp_path / "c", on_nan="rollback")
    assert {read_run(path).state for path in runs.values()} == {"finished"}
    skipped = {name for name, path in runs.items() if (path / "passed_over.json").exists()}
    assert skipped == {("adamw", 1), ("sgd", 1)}
    assert json.loads((runs["sgd", 1] / "passed_over.json").read_text()) == [5]
    lr = read_run(runs["sgd", 1]).config["lr"]
    assert start(tmp_path / "run", "--on-nan=rollback", opt="sgd", lr=lr, seed=1, steps=12, eval_every=4) == 0
    ours, theirs = records(runs["sgd", 1]), records(tmp_path / "run")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("loss", "lr", "val_loss"):
        values = [[line[name] for line in lines if name in line] for lines in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-5)


@pytest.mark.parametrize(
    ("policy", "lines", "passed", "finished"),
    [
        ("stop", [{"loss": None}], [], True),
        ("stop", [{"loss": None, "skipped_in_a_row": 1}, {"loss": 2.0}], [], False),  # stopped at step 2
        ("skip", [{"loss": None, "skipped_in_a_row": 1}], [], False),
        ("skip", [{"loss": None}], [], True),
        ("rollback(times=2)", [{"loss": None}], [4], False),  # killed before it rolled back
        ("rollback(times=2)", [{"loss": None}], [4, 7], True),
        ("rollback(times=2)", [{"val_loss": None}], [], True),
    ],
)
def test_a_run_is_finished_by_how_it_ended(tmp_path, policy, lines, passed, finished):
    config = resolve({**GIVEN, "on_nan": policy}, "nano")
    (tmp_path / "config.json").write_text(to_json(config))
    clock = lambda i: {"step": i + 1, "tokens": i, "seconds": i / 10}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(clock(i) | x) + "\n" for i, x in enumerate(lines)))
    (tmp_path / "passed_over.json").write_text(json.dumps(passed))
    assert is_finished(tmp_path, config) == finished


def test_rollback_is_refused_for_runs_in_one_program(tmp_path):
    with pytest.raises(UserError, match="^--vmap trains runs in lockstep, .* or use --on-nan skip$"):
        compared(tmp_path / "c", vmap=True, on_nan="rollback")
    assert not (tmp_path / "c").exists()


@together
def test_every_run_is_logged_kept_and_sampled_as_asked(tmp_path, vmap):
    pytest.importorskip("tensorboardX")
    runs = compared(tmp_path / "c", vmap, log=("tensorboard",), keep_every=5, keep=1, sample_tokens=7)
    for path in runs.values():
        assert same(events(path), written(path)) and (12, "val_loss") in written(path)
        kept = {int(entry.name) for entry in (path / "checkpoints").iterdir() if entry.name.isdecimal()}
        assert {5, 10, 12} <= kept and len(kept) <= 4  # these, and the best
        assert len((path / "samples.txt").read_text()) == 7


@pytest.mark.parametrize(
    "lost", [pytest.param(False, id="all"), pytest.param(True, id="one lost", marks=pytest.mark.slow)]
)
def test_a_stopped_comparison_in_one_program_continues_from_its_checkpoints(tmp_path, monkeypatch, lost):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    seen, shown = [], ComparisonProgress.at

    def at(self, what, steps):
        seen.append((what, steps // 2))
        if (what, steps // 2) == ("adamw: 7/12", 7):
            os.kill(os.getpid(), signal.SIGTERM)
        shown(self, what, steps)

    with monkeypatch.context() as patch:
        patch.setattr(ComparisonProgress, "at", at)
        runs = compared(parts, True, 128 + signal.SIGTERM)
    stopped = max(step for _, step in seen)
    assert 7 <= stopped < 12
    assert {read_run(path).state for name, path in runs.items() if name[0] == "adamw"} == {"unfinished"}
    begin = stopped
    if lost:  # the newest step that both have saved is the validation's
        shutil.rmtree(runs["adamw", 1] / "checkpoints" / str(stopped))
        begin = 4
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(ComparisonProgress, "at", lambda self, what, steps: seen.append((what, steps // 2)))
        compared(parts, True)
    assert sorted({step for what, step in seen if what.startswith("adamw")}) == list(range(begin + 1, 13))
    for name, path in compared(whole, True).items():
        assert records(runs[name]) == records(path)
        assert last_state(runs[name]) == last_state(path)
