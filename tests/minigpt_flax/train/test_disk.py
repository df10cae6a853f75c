"""A disk that is full, for a while or for good: the run continues, checkpoints stay intact, nothing is lost."""

import errno
import subprocess
import threading
import time
from pathlib import Path

import pytest

from minigpt_flax.train.callbacks import Recorder
from minigpt_flax.train.checkpoint import Checkpoints
from tests.minigpt_flax.training import last_state, records, resume, start

RECORD, WRITE = Recorder.on_step, Checkpoints._write


@pytest.fixture
def disk(tmp_path):
    """A disk of 4 MB, of which a run and its checkpoints take a part."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path):
    """Leaves no byte of a disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def full(monkeypatch, disk, begin, end=None):
    """The disk is full from the record of step ``begin`` to that of ``end``; saves in progress are completed before."""
    idle = threading.Event()
    idle.set()

    def write(self, step, state):
        idle.clear()
        try:
            WRITE(self, step, state)
        finally:
            idle.set()

    def record(self, step, metrics):
        if step in (begin, end):
            time.sleep(0.1)  # a save that has just been asked for begins
            assert idle.wait(60)
            fill(disk / "other") if step == begin else (disk / "other").unlink()
        RECORD(self, step, metrics)

    monkeypatch.setattr(Checkpoints, "_write", write)
    monkeypatch.setattr(Recorder, "on_step", record)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert start(path) == 0
    return records(path), last_state(path)


def test_a_disk_that_is_full_for_a_while(disk, whole, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch, disk, begin=10, end=18)
        assert start(disk / "run") == 0
    output = capfd.readouterr()
    assert output.err == ""
    assert "can't save the checkpoint of step 16: No space left on device; training continues, the" in output.out
    assert "the checkpoint of step 8 is intact" in output.out
    assert (records(disk / "run"), last_state(disk / "run")) == whole


def test_a_disk_that_stays_full(disk, whole, capfd, monkeypatch):
    path = disk / "run"
    with monkeypatch.context() as patch:
        full(patch, disk, begin=10)
        assert start(path) == 1
    output = capfd.readouterr().err
    assert "No space left on device" in output and output.count("\n") == 1
    assert Checkpoints(path / "checkpoints", 1).steps() == [8]
    fill(disk / "more")  # what the failed save has left free
    assert resume(path) == 2
    output = capfd.readouterr().err
    assert "No space left on device" in output and output.count("\n") == 1
    (disk / "other").unlink()
    (disk / "more").unlink()
    assert resume(path) == 0
    assert (records(path), last_state(path)) == whole


def test_a_disk_that_is_full_before_the_first_checkpoint(disk, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch, disk, begin=2)
        assert start(disk / "run") == 1
    output = capfd.readouterr().err
    assert "No space left on device" in output and output.count("\n") == 1
