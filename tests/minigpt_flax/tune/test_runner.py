"""A tuning from the call to its files."""

import csv
import json
import re
import statistics
import time

import pytest

import minigpt_flax as mg
from minigpt_flax.__main__ import main as minigpt
from minigpt_flax.compare import jobs, sweep
from minigpt_flax.compare.progress import ComparisonProgress
from minigpt_flax.compare.sweep import Stopped
from minigpt_flax.errors import TrainingFailed
from minigpt_flax.tune import runner, tuning as tunings
from tests.minigpt_flax.training import ROOT

SMALL = {
    "preset": "nano", "data": str(ROOT / "LICENSE"), "layers": 1, "heads": 2, "width": 16, "context": 8,
    "batch_size": 4, "steps": 32, "log_every": 8,
}  # fmt: skip
OVER = {"lr": "1e-3..1e-1", "b2": "0.9..0.999", "weight_decay": [0.0, 0.1]}


@pytest.fixture
def built(monkeypatch):
    """The programs that are made."""
    found = []
    traced = runner.trace_run
    monkeypatch.setattr(runner, "trace_run", lambda *args: found.append(args) or traced(*args))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("vmap", [False, True], ids=["alone", "vmap"])
def test_a_search_shares_one_program_and_continues_after_a_signal(tmp_path, monkeypatch, built, vmap):
    how = {"opt": "adamw", "over": OVER, "out": tmp_path, "name": "t", "vmap": vmap, "quiet": True, **SMALL}
    whole = mg.tune(**{**how, "name": "whole"})
    assert len(built) == 1
    plan, stages = whole.tuning.plan, [trial.stage for trial in whole.trials]
    for stage, (most, steps) in plan.lengths.items():
        assert 0 < stages.count(stage) <= most
        assert {trial.steps for trial in whole.trials if trial.stage == stage} == {steps}
    assert whole.loss == min(trial.loss for trial in whole.trials if trial.stage == "refine")
    assert {trial.seed for trial in whole.trials if trial.stage == "judge"} == {1, 2}
    rows = list(csv.DictReader((whole.folder / "trials.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == pytest.approx([row["loss"] for row in whole.rows])
    stored = json.loads((whole.folder / "results.json").read_text())
    assert stored["schema"] == "minigpt-tuning/1" and stored["best"] == whole.best
    assert (whole.folder / "sensitivity.svg").stat().st_size > 1000
    assert not list(whole.folder.glob("trials/*/checkpoints/*"))

    train = sweep.train_group
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        train(*args)

    monkeypatch.setattr(runner, "train_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mg.tune(**how)
    assert mg.tune(**how).rows == whole.rows


@pytest.mark.slow
def test_a_keyword_that_cannot_be_traced_takes_a_program_for_each_value(tmp_path, built, capsys):
    command = ["tune", "--opt=muon", "--over=ns_steps=2,4", "--judging-seeds=0", f"--out={tmp_path}", "--json"]
    assert minigpt([*command, *(f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items())]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(built) == 2 and [row["ns_steps"] for row in record["trials"]] == [2, 4]
    assert f"ns_steps={record['best']['ns_steps']}" in record["command"] and record["judged"] == {"seeds": []}


@pytest.mark.slow
def test_the_loss_of_a_setting_is_the_mean_over_the_seeds(tmp_path):
    result = mg.tune(
        opt="adamw", over={"lr": [1e-3, 1e-2]}, seeds=2, judging_seeds=0, vmap=True, out=tmp_path, quiet=True, **SMALL
    )
    losses = [row["loss"] for row in result.rows if row["lr"] == result.best["lr"]]
    assert len(losses) == 2 and result.loss == statistics.fmean(losses)


def test_a_share_waits_for_the_runs_of_the_others(tmp_path, monkeypatch):
    """Of two runs, the second share trains the second, and then waits until the first has ended."""
    given = {name: value for name, value in SMALL.items() if name not in ("preset", "data")}
    one = tunings.check(tunings.Tuning("nano", {**given, "data": (SMALL["data"],)}, ("lr=1e-3,1e-2",), (0,), 0))
    tuner = runner.Tuner(one, tmp_path, share=(1, 2))
    asked, trained, ended = [], [], set()
    tuner.stop, tuner.progress = lambda: len(asked) > 5, ComparisonProgress(1, shown=False)
    monkeypatch.setattr(runner.Tuner, "program", lambda self, config: None)
    monkeypatch.setattr(runner, "train_group", lambda program, group, *_: trained.extend(group) or ended.update(group))
    monkeypatch.setattr(runner.Tuner, "report", lambda *_: None)
    monkeypatch.setattr(runner, "is_finished", lambda path, config: asked.append(path) or path in ended)
    monkeypatch.setattr(runner, "PAUSE", 0.0)
    with pytest.raises(Stopped):
        tuner.train("refine", [({"lr": 1e-3}, 0), ({"lr": 1e-2}, 0)], 32)
    assert [path.name for path in trained] == ["lr=0.01-steps32-seed0"]
    assert {path.name for path in asked[1:]} == {"lr=0.001-steps32-seed0"}


def test_a_wait_names_the_other_share_and_ends(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    runs = [tmp_path / name for name in "abc"]
    others = jobs.OtherShares(["tune", "--resume", "my search"], runs, 2)
    start = r"minigpt_flax tune --resume 'my search' --share=1/2"
    for second in range(0, 121, 10):
        now[0] = float(second)
        others.check(1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(
        re.search(f"^waiting for share 1/2; if it isn't running: .*{start}$", s) for s in said
    )
    runs[2].mkdir()
    now[0] = jobs.SILENCE + 60
    others.check(1)  # one of its runs has begun
    now[0] += jobs.SILENCE + 1
    with pytest.raises(TrainingFailed, match=f"share 1/2 .* nothing for 30 min: start it with .*{start}, then"):
        others.check(1)


@pytest.mark.slow
def test_jobs_are_the_whole(tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    search = ["--opt=adamw", "--over=lr=1e-3,1e-2", "--over=clip=0.5,1", "--judging-seeds=1", f"--out={tmp_path}"]
    found = []
    for count in (1, 2):
        assert minigpt(["tune", *search, *flags, f"--name=jobs{count}", f"--jobs={count}", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    alone, together = found
    assert together["best"] == alone["best"] and together["loss"] == pytest.approx(alone["loss"], abs=1e-4)
    assert [row["run"] for row in together["trials"]] == [row["run"] for row in alone["trials"]]
