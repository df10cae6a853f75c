"""The callbacks: the non-finite guard, the recorder, and the report of skipped steps."""

import errno
import json
import os

import numpy as np
import pytest

from minigpt_flax.errors import CheckpointError, Diverged, Failed
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.metrics_log import MetricsLog
from minigpt_flax.train.callbacks import NonFiniteGuard, Recorder, SkippedSteps


def metrics(loss=1.0, squares=(1.0, 3.0)):
    squares = np.asarray(squares, np.float32)
    with np.errstate(over="ignore"):
        norm = np.sqrt(np.sum(squares))
    return {"loss": np.float32(loss), "grad_norm": norm, "grad_squares": squares}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (metrics(loss=np.nan), r"loss nan, gradient norm 2 at step 7; 0 of 2 gradients .* none, largest b"),
        (metrics(loss=np.inf, squares=(1, np.nan)), r"loss inf, .*1 of 2 gradients are not finite, first b"),
        (metrics(squares=(np.inf, np.nan)), r"2 of 2 gradients are not finite, first a"),
        (metrics(squares=(3e38, 3e38)), r"gradient norm inf at step 7; 0 of 2"),
    ],
)
def test_the_guard_names_step_and_tensor(broken, message):
    with pytest.raises(Diverged, match=message):
        NonFiniteGuard(["a", "b"], 10.0, print).on_step(7, broken)


def test_the_guard_warns_once():
    warned = []
    guard = NonFiniteGuard(["a", "b"], 2.5, lambda *what: warned.append(what))
    for step, squares in enumerate([(1, 3), (9, 0), (0, 25)]):
        guard.on_step(step, metrics(squares=squares))
    assert warned == [(1, 3.0, "a")]


def test_steps_that_are_due_or_not_finite_are_logged(tmp_path):
    with MetricsLog(RunFolder(tmp_path), tokens_after=lambda steps: 10 * steps, seconds=100.0) as log:
        recorder = Recorder(log, every=3)
        for step in range(1, 6):
            recorder.on_step(step, metrics(loss=np.nan if step == 5 else step))
        recorder.on_validation(6, {"val_loss": 1.5, "val_perplexity": float("inf")})
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]  # without closing
    assert [(line["step"], line.get("loss")) for line in lines] == [(1, 1.0), (3, 3.0), (5, None), (6, None)]
    assert lines[1].keys() == {"step", "tokens", "seconds", "loss", "grad_norm"}
    assert lines[1]["tokens"] == 30 and 100 <= lines[1]["seconds"] < 110
    assert lines[3]["val_perplexity"] is None


def test_a_probe_that_does_not_measure_is_not_logged(tmp_path):
    with MetricsLog(RunFolder(tmp_path), tokens_after=lambda steps: 10 * steps) as log:
        recorder = Recorder(log, every=1)
        recorder.on_step(1, {**metrics(loss=np.nan), "sharpness": np.float32(7)})
        recorder.on_step(2, {**metrics(), "sharpness": np.float32(np.nan), "ratio": np.float32(np.inf)})
    first, second = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first["loss"] is None and first["sharpness"] == 7
    assert "sharpness" not in second and second["ratio"] is None


def test_a_full_disk_is_reported_once_and_stops_a_checkpoint_and_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt_flax.runs.files.open_append", lambda path: open("/dev/full", "ab", buffering=0))
    warned = []
    with (
        pytest.raises(Failed, match="can't write the last records of .*metrics.jsonl: No space left on device"),
        MetricsLog(RunFolder(tmp_path), lambda steps: steps, warn=warned.append) as log,
    ):
        recorder = Recorder(log, 1)
        recorder.on_step(3, metrics())
        recorder.on_step(4, metrics())
        with pytest.raises(CheckpointError, match="can't write .*metrics.jsonl: No space left on device"):
            log.sync()
    path = show(tmp_path / "metrics.jsonl")
    assert warned == [f"can't write {path}: No space left on device; its records are kept in memory"]


class Filling:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_records_wait_for_room_and_lose_nothing(tmp_path):
    with MetricsLog(RunFolder(tmp_path), lambda steps: steps, warn=lambda text: None) as log:
        log.file = Filling(log.file, room=100)
        for step in range(1, 8):
            Recorder(log, 1).on_step(step, metrics(loss=step))
            if step == 5:
                log.file.room = 10**6
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == list(range(1, 8))


def skips(skipped, in_a_row):
    return {"skipped": np.float32(skipped), "skipped_in_a_row": np.float32(in_a_row)}


def test_the_guard_accepts_skipped_steps_up_to_a_limit():
    guard = NonFiniteGuard(["a", "b"], 10.0, print, skips=2)
    for in_a_row in (1, 2, 0, 1, 2):
        guard.on_step(in_a_row, metrics(loss=np.nan if in_a_row else 1.0) | skips(9, in_a_row))
    with pytest.raises(Diverged, match="at step 7, after 2 successive steps that were skipped") as error:
        guard.on_step(7, metrics(loss=np.nan) | skips(9, 3))
    assert error.value.step == 7
    with pytest.raises(Diverged, match="the update of step 8 is not finite"):
        NonFiniteGuard(["a", "b"], 10.0, print).on_step(8, metrics() | skips(1, 1))


def test_skipped_steps_are_reported_at_powers_of_two():
    warned = []
    callback = SkippedSteps({"skipped": np.int32(2)}, warned.append)
    for step, skipped in enumerate([2, 3, 3, 4, 5, 6, 7, 8]):
        callback.on_step(step, metrics(loss=9.0) | skips(skipped, 1))
    assert warned == [
        "step 3 was skipped: loss 9, gradient norm 2; 4 so far",
        "step 7 was skipped: loss 9, gradient norm 2; 8 so far",
    ]
