"""A trace covers the steps asked for, and no others."""

import gzip
import json

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.train.profiling import read_steps
from tests.minigpt_flax.training import resume, start


def traced(path):
    (file,) = (path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "step" and "args" in event]
    return sorted({int(step) for step in steps})


def test_the_steps_asked_for_are_traced(tmp_path, capfd):
    path = tmp_path / "run"
    assert start(path, "--profile=3:5", "--stop-after=7") == 0
    assert traced(path) == [3, 4, 5]
    output = capfd.readouterr().out
    assert "steps 3 to 5 traced" in output and "https://ui.perfetto.dev" in output
    assert resume(path, "--profile=3:5") == 2  # both are done
    assert "the remaining steps are 8 to 24" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["x", "3", "3:", "5:3", "0:2", "9:11", "-1:2", "3:5:7"])
def test_steps_that_the_run_has_not(text):
    with pytest.raises(UserError, match="--profile"):
        read_steps(text, done=0, last=10)


def test_a_mistake_leaves_no_folder(tmp_path, capfd):
    assert start(tmp_path / "run", "--profile=20:40") == 2
    assert "the remaining steps are 1 to 24" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()
