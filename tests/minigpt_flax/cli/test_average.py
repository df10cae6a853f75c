"""``average``: the new run's parameters are the mean of the checkpoints'; mistakes in one line."""

import os

import chex
import jax
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.train.restore import open_checkpoints, restore


def steps_of(run):
    with open_checkpoints(run) as checkpoints:
        return checkpoints.steps()


def test_the_parameters_are_the_mean_of_the_checkpoints(trained, tmp_path, capfd):
    out, steps = tmp_path / "out", steps_of(trained)[-2:]
    assert main(["average", str(trained), "--last", "2", "--out", str(out)]) == 0
    assert f"the mean of 2 checkpoints, of steps {steps[0]}, {steps[1]}" in capfd.readouterr().out
    a, b = (restore(trained, str(step)).params for step in steps)
    found = restore(out)
    assert steps_of(out) == [found.step] == steps[-1:]
    chex.assert_trees_all_close(found.params, jax.tree.map(lambda a, b: (a + b) / 2, a, b), rtol=1e-5, atol=1e-7)
    assert main(["export", str(out), "--out", str(tmp_path / "gpt2"), "--quiet"]) == 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["{trained}", "--last", "1000", "--out", "{new}"], "fewer than --last 1000: give --last"),
        (["{trained}", "--last", "1", "--out", "{new}"], "must be at least 2"),
        (["{trained}", "--last", "2", "--out", "{there}"], "exists already"),
        (["{there}", "--out", "{new}"], "is not the folder of a run"),
    ],
)
def test_mistakes_end_in_one_line(trained, tmp_path, capfd, arguments, says):
    places = {"trained": trained, "there": tmp_path, "new": tmp_path / "new"}
    assert main(["average", *(argument.format(**places) for argument in arguments)]) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1, said
    assert os.listdir(tmp_path) == []
