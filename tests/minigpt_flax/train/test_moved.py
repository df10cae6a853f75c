"""A run's folder suffices wherever it was moved and from any working directory; missing data is asked for."""

import json
import shutil

import pytest

from minigpt_flax.__main__ import main as minigpt
from tests.minigpt_flax.training import ROOT, records, resume, start

COMMANDS = {
    "eval": ["eval", "RUN"],
    "sample": ["sample", "RUN", "--max-tokens=2"],
    "diagnose": ["diagnose", "RUN", "--only=noise", "--batches=2"],
    "report": ["report", "RUN"],
}


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """A stopped run that was trained on data by a relative path, moved; and another working directory."""
    work, other = tmp_path / "work", tmp_path / "elsewhere"
    (work / "data").mkdir(parents=True)
    (other / "deep").mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", work / "data" / "book.txt")
    monkeypatch.chdir(work)
    assert start(work / "run", data="data/book.txt", stop_after=8) == 0
    (work / "run").rename(other / "moved")
    monkeypatch.chdir(other / "deep")
    return other / "moved"


@pytest.mark.parametrize("name", ["eval", "sample", "report", pytest.param("diagnose", marks=pytest.mark.slow)])
def test_commands_work_on_a_moved_run(name, moved):
    assert minigpt([str(moved) if word == "RUN" else word for word in COMMANDS[name]]) == 0


def test_a_moved_run_resumes(moved, capfd):
    assert resume("../moved") == 0
    assert records(moved)[-1]["step"] == 24
    assert json.loads((moved / "config.json").read_text())["data"] == [str(moved.parents[1] / "work/data/book.txt")]


@pytest.mark.parametrize("name", ["resume", "eval", "diagnose"])
def test_missing_data_is_named_and_may_be_elsewhere(name, moved, tmp_path, capfd):
    (tmp_path / "work" / "data" / "book.txt").rename(tmp_path / "book.txt")
    command, *flags = COMMANDS.get(name, [name, "RUN"])
    arguments = [str(moved), *flags[1:]]
    call = lambda *more: resume(moved, *more) if name == "resume" else minigpt([command, *arguments, *more])
    assert call() == 2
    said = capfd.readouterr().err
    sha256 = json.loads((moved / "env.json").read_text())["data"]["sha256"]
    assert "moved" in said and "book.txt" in said and sha256 in said and "--data PATH" in said
    assert call(f"--data={tmp_path / 'book.txt'}") == 0
    if name == "resume":
        assert json.loads((moved / "config.json").read_text())["data"] == [str(tmp_path / "book.txt")]
    if name == "eval":
        assert "validation" in capfd.readouterr().out  # a copy of the run's own data counts as its own


def test_other_data_is_refused(moved, tmp_path, capfd):
    (tmp_path / "other.txt").write_text("something else " * 200)
    assert resume(moved, f"--data={tmp_path / 'other.txt'}") == 2
    assert "SHA-256" in capfd.readouterr().err
