"""Failures of a run end in one line, the right status, and an intact checkpoint."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from minigpt_flax.data import PhaseBatches
from minigpt_flax.train.checkpoint import Checkpoints
from tests.minigpt_flax import training
from tests.minigpt_flax.training import ROOT, TINY, call, flags, last_state, records, resume, start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert start(path) == 0
    return path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "stopped"
    assert start(path, "--stop-after", 20) == 0
    return path


@pytest.fixture
def half(stopped, tmp_path):
    """A run at step 20 of 24 with checkpoints 16 and 20, to be damaged."""
    return shutil.copytree(stopped, tmp_path / "half")


def one_line(text):
    assert text.startswith("train.py: ") and text.count("\n") == 1, text
    return text


def poison(monkeypatch, step):
    """From this step on, batches hold a token that no embedding has: the real model answers with NaN."""
    original = PhaseBatches.__call__
    bad = lambda self, t: original(self, t) + (10**6 if t >= step else 0)
    monkeypatch.setattr(PhaseBatches, "__call__", bad)


def test_a_non_finite_loss_stops_the_run(tmp_path, capfd, monkeypatch, finished):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, 11)
        assert start(path, log_every=5) == 1
    output = one_line(capfd.readouterr().err)
    assert "loss nan" in output and "at step 12" in output and "first blocks/attention/key/kernel[0]" in output
    assert "the checkpoint of step 8 is from before that" in output
    assert records(path)[-1] == {**records(path)[-1], "step": 12, "loss": None, "grad_norm": None}
    assert Checkpoints(path / "checkpoints", 1).steps() == [8]
    assert resume(path) == 0  # the batches are intact again
    assert last_state(path) == last_state(finished)


def test_divergence_by_too_high_a_learning_rate(tmp_path, capfd):
    status = start(tmp_path / "run", opt="sgd", lr="1e38", clip="none", schedule="constant")
    assert status == 1
    output = one_line(capfd.readouterr().err)
    assert "not finite" in output and "no checkpoint was saved" in output


def test_an_explosion_is_reported_once_in_a_run(tmp_path, capfd):
    path = tmp_path / "run"
    start(path, "--explosion=0.1", "--stop-after=10")
    assert capfd.readouterr().out.count("exceeds 0.1 at step 1; largest in ") == 1
    resume(path)
    assert "exceeds" not in capfd.readouterr().out
    assert [line["step"] for line in records(path) if "explosion" in line] == [1]


def test_a_finished_run_is_reported(finished, capfd):
    before = records(finished)
    (finished / "curves.png").touch()  # which these tests don't draw
    assert resume(finished) == 0
    assert capfd.readouterr().out == f"{finished} is finished: all 24 steps are done\n"
    assert records(finished) == before


def test_another_run_is_not_overwritten(finished, capfd):
    assert start(finished) == 2
    assert f"{finished} holds another run" in one_line(capfd.readouterr().err)


def test_a_folder_of_something_else(tmp_path, capfd):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    assert start(tmp_path / "photos") == 2
    assert "exists already and is not a run" in one_line(capfd.readouterr().err)
    assert resume(tmp_path / "photos") == 2
    assert "is not the folder of a run" in one_line(capfd.readouterr().err)
    (tmp_path / "file").write_text("")
    assert call(*flags(out=tmp_path / "file", name="run")) == 2
    assert "Not a directory" in one_line(capfd.readouterr().err)


def test_a_mistake_leaves_no_folder(tmp_path, capfd):
    assert start(tmp_path / "run", opt="adamw(b1=2.0)") == 2
    one_line(capfd.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_unnamed_runs_get_folders_of_their_own(tmp_path):
    for _ in range(2):
        assert call(*flags(out=tmp_path), "--steps=2", "--schedule=constant") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano-adamw-0", "nano-adamw-0-2"]


def test_flags_may_repeat_the_configuration_but_not_change_it(half, capfd):
    rate = json.loads((half / "config.json").read_text())["lr"]
    assert resume(half, "--opt", "adamw", "--lr", "0.123") == 2
    assert f"was started with lr={rate}, not 0.123" in one_line(capfd.readouterr().err)
    assert resume(half, "--opt", "adamw(b2=0.95)") == 2
    assert "was started with opt=" in one_line(capfd.readouterr().err)
    assert resume(half, "--preset", "char") == 2
    assert "takes no --preset" in one_line(capfd.readouterr().err)
    assert resume(half, "--opt", "adamw", f"--lr={rate}", "--schedule", "warmup_cosine") == 0


def test_flags_that_do_not_affect_the_numbers_may_change(half, capfd, finished):
    assert resume(half, "--log-every", "3", "--keep", "0") == 2
    assert "--keep must be at least 1, got 0" in one_line(capfd.readouterr().err)
    assert resume(half, "--log-every", "3", "--keep", "1") == 0
    assert [line["step"] for line in records(half) if line["step"] > 20] == [21, 24, 24]
    assert 20 not in Checkpoints(half / "checkpoints", 1).steps()
    assert last_state(half) == last_state(finished)


def test_data_that_changed_is_refused(tmp_path, capfd):
    data = tmp_path / "data.txt"
    shutil.copy(TINY["data"], data)
    assert start(tmp_path / "run", "--stop-after=2", data=data) == 0
    data.write_text(data.read_text().replace("License", "Licence"))
    capfd.readouterr()
    assert resume(tmp_path / "run") == 2
    assert "has changed since this run began" in one_line(capfd.readouterr().err)


DAMAGES = {
    "config.json": ["", "[]", '{"lr": -1}', "{", b"\xff\xfe", '{"wings": 2}'],
    "env.json": ["", "{}", '{"data": 1}', b"\xff"],
    "tokenizer.json": ["", "{}", b"\xff\x00"],
    "metrics.jsonl": ["x\n", "[1]\n", '{"loss": 1}\n', '{"step": null}\n', b"\xff\n"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in DAMAGES.items() for text in texts])
def test_damaged_files_of_a_run(half, capfd, name, text):
    (half / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert resume(half) == 2
    assert name in one_line(capfd.readouterr().err)


@pytest.mark.parametrize("name", ["env.json", "tokenizer.json"])
def test_missing_files_of_a_run(half, capfd, name):
    (half / name).unlink()
    assert resume(half) == 2
    assert name in one_line(capfd.readouterr().err)


def test_records_that_a_crash_cut_short_or_left_behind(half, finished):
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "tokens": 672, "seconds": 9.0, "loss": 0.0}\n{"step": 22, "lo')
    assert resume(half) == 0
    assert records(half) == records(finished)


def test_a_run_in_progress_is_left_alone(half, capfd):
    code = f"from minigpt_flax.runs.folder import RunFolder\nwith RunFolder({str(half)!r}).claim(): print(); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == "\n"
        assert resume(half) == 2
        assert f"is being trained by process {other.pid} on " in one_line(capfd.readouterr().err)
        other.kill()
    assert resume(half) == 0  # the system has released the lock of the killed process


def test_a_full_disk_while_logging(half, capfd, monkeypatch):
    # /dev/full answers every write as a full disk does
    monkeypatch.setattr("minigpt_flax.runs.files.open_append", lambda path: open("/dev/full", "ab", buffering=0))
    assert resume(half) == 1
    assert "No space left on device" in one_line(capfd.readouterr().err)
    assert Checkpoints(half / "checkpoints", 1).steps() == [16, 20]


def test_a_file_system_that_takes_no_checkpoint(half, finished, capfd, monkeypatch):
    monkeypatch.setattr(training, "KEPT", 3600.0)  # or other tests would find a part of a program
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))  # enough for the log
    try:
        status = resume(half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    assert "can't save the checkpoint of step 24" in one_line(capfd.readouterr().err)
    assert sorted(os.listdir(half / "checkpoints"), key=int) == ["16", "20"]
    assert resume(half) == 0
    assert (records(half), last_state(half)) == (records(finished), last_state(finished))


def test_a_folder_that_can_not_be_written(tmp_path, capfd):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert start(tmp_path / "run") == 2
    assert "can't make the folder" in one_line(capfd.readouterr().err)


def test_the_log_is_strict_json_and_continues_the_clock(half):
    before = json.loads((half / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    assert resume(half) == 0
    lines = (half / "metrics.jsonl").read_text().splitlines()

    def refuse(constant):
        raise AssertionError(constant)

    clock = [json.loads(line, parse_constant=refuse)["seconds"] for line in lines]
    assert clock == sorted(clock) and clock[-1] > before


def test_help_and_mistakes_need_no_jax():
    code = "import sys, minigpt_flax.cli.train; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
