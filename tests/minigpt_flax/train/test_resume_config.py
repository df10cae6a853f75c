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


QUICK = ("constant", "wsd before its cool-down", "accumulated")


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
