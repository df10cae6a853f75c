"""The guard and the log."""

import json

import numpy as np
import pytest

from minigpt_flax.train.folder import RunFolder
from minigpt_flax.train.hooks import Guard, Log
from minigpt_flax.train.stop import Diverged, Failed


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
        Guard(["a", "b"], 10.0, print)(7, broken)


def test_the_guard_warns_once():
    told = []
    guard = Guard(["a", "b"], 2.5, lambda *what: told.append(what))
    for step, squares in enumerate([(1, 3), (9, 0), (0, 25)]):
        guard(step, metrics(squares=squares))
    assert told == [(1, 3.0, "a")]


def test_the_log_writes_what_is_due_and_what_broke(tmp_path):
    with Log(RunFolder(tmp_path), every=3, tokens_per_step=10, seconds=100.0) as log:
        for step in range(1, 6):
            log(step, metrics(loss=np.nan if step == 5 else step))
        log.write(6, {"val_loss": 1.5, "val_perplexity": float("inf")})
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]  # without closing
    assert [(line["step"], line.get("loss")) for line in lines] == [(1, 1.0), (3, 3.0), (5, None), (6, None)]
    assert lines[1].keys() == {"step", "tokens", "seconds", "loss", "grad_norm"}
    assert lines[1]["tokens"] == 30 and 100 <= lines[1]["seconds"] < 110
    assert lines[3]["val_perplexity"] is None


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(Failed, match="can't write /dev/full at step 3: No space left on device"),
        Log(RunFolder(tmp_path), 1, 1) as log,
    ):
        log(3, metrics())
