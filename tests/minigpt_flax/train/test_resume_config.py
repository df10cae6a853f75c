"""An extended run equals one planned to be as long, bit for bit; where that can't be, one line says why."""

import json

import pytest

from tests.minigpt_flax.training import last_state, records, resume, start


def losses(path):
    return [(record["step"], record["loss"], record["lr"]) for record in records(path) if "loss" in record]


EXTENSIBLE = {
    "constant": ("constant", ()),
    "inverse_sqrt": ("inverse_sqrt(warmup=4)", ()),
    "warmup_constant": ("warmup_constant(warmup=4)", ()),
    "wsd before its cool-down": ("wsd(warmup=2, cooldown=10)", ("--stop-after=10",)),
    "schedule-free": ("constant", ("--wrap=schedule_free",)),
    "accumulated": ("constant", ("--wrap=accumulate(steps=3)",)),
}


QUICK = ("constant",)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow) for case in EXTENSIBLE]
)
def test_an_extended_run_equals_a_long_one(case, tmp_path):
    schedule, more = EXTENSIBLE[case]
    assert start(tmp_path / "short", *more, schedule=schedule, steps=24) == 0
    assert resume(tmp_path / "short", "--steps=48") == 0
    longer = [flag for flag in more if "stop" not in flag]
    assert start(tmp_path / "long", *longer, schedule=schedule, steps=48) == 0
    assert losses(tmp_path / "short") == losses(tmp_path / "long")
    assert last_state(tmp_path / "short") == last_state(tmp_path / "long")
    assert json.loads((tmp_path / "short" / "config.json").read_text())["steps"] == 48


def test_a_warmup_that_is_a_fraction_keeps_its_steps(tmp_path):
    assert start(tmp_path / "run", schedule="inverse_sqrt(warmup=0.25)", steps=24) == 0
    assert resume(tmp_path / "run", "--steps=48") == 0
    assert start(tmp_path / "long", schedule="inverse_sqrt(warmup=6)", steps=48) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "long")
    assert "warmup=6" in json.loads((tmp_path / "run" / "config.json").read_text())["schedule"]


@pytest.mark.parametrize("schedule", ["warmup_cosine(warmup=4)", "linear", "wsd(warmup=2, cooldown=10)"])
def test_where_the_past_would_have_been_different_one_line_says_why(schedule, tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, schedule=schedule) == 0
    before = (path / "config.json").read_bytes()
    capfd.readouterr()
    assert resume(path, "--steps=48") == 2
    said = capfd.readouterr().err
    assert "can't be extended to --steps 48" in said and "constant, inverse_sqrt, and wsd" in said
    assert said.count("\n") == 1 and (path / "config.json").read_bytes() == before


def test_a_run_is_not_shortened(tmp_path, capfd):
    assert start(tmp_path / "run", schedule="constant") == 0
    assert resume(tmp_path / "run", "--steps=12") == 2
    assert "can be extended, not shortened" in capfd.readouterr().err


def test_what_changes_the_numbers_changes_on_request_and_is_recorded(tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, lr=0.01, steps=2, eval_every=2, schedule="warmup_cosine(warmup=1)") == 0
    flags = ("--lr=0.001", "--clip=clip_by_norm(0.5)", "--steps=4")
    for flag in flags[:2]:
        capfd.readouterr()
        assert resume(path, flag) == 2
        said = capfd.readouterr().err
        assert "add --change to change it from here on" in said and said.count("\n") == 1
    assert resume(path, "--change", "--clip=none") == 2  # another state
    assert "was started with clip=clip_by_norm(1.0), not none: omit the flag, or start" in capfd.readouterr().err
    assert resume(path, "--change", *flags, "--schedule=constant") == 0
    assert [lr for _, _, lr in losses(path)][2:] == pytest.approx([0.001] * 2)
    config = json.loads((path / "config.json").read_text())
    assert (config["lr"], config["clip"]) == (0.001, "clip_by_norm(0.5)")
    (change,) = map(json.loads, (path / "changes.jsonl").read_text().splitlines())
    schedule = ["warmup_cosine(warmup=1, floor=0.1)", "constant"]
    clip = ["clip_by_norm(1.0)", "clip_by_norm(0.5)"]
    assert change == {"step": 2, "steps": [2, 4], "lr": [0.01, 0.001], "schedule": schedule, "clip": clip}


@pytest.mark.slow
def test_what_leaves_the_numbers_alone_changes_freely(tmp_path, capfd):
    whole, other = tmp_path / "whole", tmp_path / "other"
    assert start(whole, schedule="constant", steps=4, eval_every=4) == 0
    assert start(other, schedule="constant", steps=4, eval_every=4, stop_after=2) == 0
    assert resume(other, "--remat=full", "--loss-chunk=8", "--batch-size=2", "--accum=2", "--eval-every=1") == 0
    for ours, theirs in zip(losses(other), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert json.loads((other / "config.json").read_text())["accum"] == 2
    assert resume(other, "--batch-size=4") == 2
    assert "was started with batch_size=2, not 4" in capfd.readouterr().err
