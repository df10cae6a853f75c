"""A run that stops and resumes equals the run that never stopped, bit for bit, however it stopped."""

import functools
import os
import random
import signal
import time
from subprocess import TimeoutExpired

import pytest

from tests.minigpt_flax.training import call, flags, last_state, lasting_folder, records, resume, spawn, start


@functools.cache
def uninterrupted():
    """Records and last state of the run that all others are compared with."""
    path = lasting_folder() / "whole"
    assert start(path) == 0
    return records(path), last_state(path)


@pytest.mark.parametrize(
    "after", [pytest.param(n, marks=[] if n in (0, 7) else pytest.mark.slow) for n in (0, 1, 7, 8, 23, 24)]
)
def test_stop_after(tmp_path, after):
    path = tmp_path / "run"
    assert start(path, "--stop-after", after) == 0
    assert resume(path) == 0
    assert (records(path), last_state(path)) == uninterrupted()


@functools.cache
def long_uninterrupted(steps, eval_every):
    path = lasting_folder() / "whole"
    assert start(path, steps=steps, eval_every=eval_every) == 0
    return records(path), last_state(path)


def wait_for(path, steps, process):
    """Waits until so many steps are on record."""
    log = path / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= steps):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_from_outside(tmp_path, number, status):
    path = tmp_path / "run"
    settings = {"steps": 3000, "eval_every": 200}
    process = spawn(*flags(out=tmp_path, name="run", **settings))
    wait_for(path, 500, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err and "Error" not in err
    assert ("continue with" in out) is (status > 0)
    process = spawn("--resume", path)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert (records(path), last_state(path)) == long_uninterrupted(**settings)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
    path = tmp_path / "run"
    settings = {"steps": 2000, "eval_every": 20}
    seed = int(os.environ.get("KILLS_SEED", "0"))
    generator, kills = random.Random(seed), 0
    arguments = flags(out=tmp_path, name="run", **settings)
    while True:
        process = spawn(*arguments)
        try:
            process.communicate(timeout=generator.uniform(2.0, 6.0) + 0.5 * kills)
        except TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            assert process.returncode == 0
            break
        if (path / "config.json").exists():
            arguments = ["--resume", path]
    assert kills
    assert (records(path), last_state(path)) == long_uninterrupted(**settings)


@pytest.mark.slow
def test_a_thousand_steps_of_the_nano_preset(tmp_path):
    """The preset's own sizes and specs: 500 and 500 steps against 1000."""
    sizes = {"layers": 4, "heads": 4, "width": 128, "context": 64, "batch_size": 12, "steps": 1000}
    sizes |= {"eval_every": 250, "schedule": "warmup_cosine(warmup=100, floor=0.1)"}
    assert start(tmp_path / "whole", **sizes) == 0
    assert start(tmp_path / "parts", "--stop-after", 500, **sizes) == 0
    assert resume(tmp_path / "parts") == 0
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert last_state(tmp_path / "parts") == last_state(tmp_path / "whole")


def test_one_command_starts_continues_and_finishes_a_run(tmp_path, capfd):
    path, auto = tmp_path / "run", "--resume=auto"
    assert start(path, auto, "--stop-after=7") == 0
    assert records(path)[-1]["step"] == 7
    assert start(path, auto) == 0
    assert (records(path), last_state(path)) == uninterrupted()
    capfd.readouterr()
    assert start(path, auto) == 0
    assert "is finished: all 24 steps are done" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("more", "output"),
    [
        (["--lr=0.5"], "was started with lr="),
        (["--opt=lion"], "was started with opt="),
        (["--preset=sprint"], "was started with opt="),
    ],
)
def test_the_command_must_agree_with_the_run_that_it_continues(tmp_path, capfd, more, output):
    path = tmp_path / "run"
    assert start(path, "--resume=auto", "--stop-after=0") == 0
    changes = {"preset": more[0].partition("=")[2]} if "preset" in more[0] else {}
    assert start(path, "--resume=auto", *([] if changes else more), **changes) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and output in err


def test_auto_needs_a_name_and_takes_no_other_folder(tmp_path, capfd):
    assert call("--resume=auto", "--out", tmp_path) == 2
    assert capfd.readouterr().err.count("give its --name") == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert start(tmp_path / "mine", "--resume=auto") == 2
    assert "exists already and is not a run" in capfd.readouterr().err
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]
