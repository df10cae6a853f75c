"""The measurements of speed run, at sizes that show no more than that."""

import json

import jax
import pytest

from benchmarks import loop, startup


@pytest.mark.slow
def test_startup(tmp_path):
    assert startup.main(["--repeats", "1", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    seconds = json.loads(file.read_text())["startup"]["seconds"]
    assert seconds.keys() == startup.BARS.keys() and all(times["least"] > 0 for times in seconds.values())


def test_a_step_that_was_sent_ahead_is_told_from_one_that_waited():
    step = jax.jit(lambda state, batch: (state, {"loss": state.sum()}))
    watched = loop.Watched(step)
    state, _ = watched(jax.numpy.ones(3), None)
    jax.block_until_ready(watched.before)
    watched(state, None)
    assert (watched.calls, watched.ahead) == (1, 0)
