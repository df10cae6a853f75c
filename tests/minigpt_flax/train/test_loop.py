"""Signals at every moment: the step is finished, the state saved, and the resumed run equals an uninterrupted one."""

import functools
import os
import signal

import pytest

from minigpt_flax.data import Prefetch
from minigpt_flax.train import build, dataset, loop, supervisor
from minigpt_flax.train.checkpoint import Checkpoints
from tests.minigpt_flax.training import last_state, lasting_folder, records, resume, start


@functools.cache
def uninterrupted():
    path = lasting_folder() / "whole"
    assert start(path) == 0
    return records(path), last_state(path)


def at_call(monkeypatch, place, name, number, *signals):
    """Sends real signals to this process when a function is called for the ``number``-th time."""
    original, calls = getattr(place, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            for each in signals:
                os.kill(os.getpid(), each)
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, wrapped)


MOMENTS = {
    "reading the data": (dataset, "load_corpus", 1),
    "first step": (Prefetch, "__call__", 1),
    "a step": (Prefetch, "__call__", 11),
    "last step": (Prefetch, "__call__", 24),
    "first validation": (build, "evaluation_windows", 1),
    "last validation": (build, "evaluation_windows", 3),
    "before a save": (Checkpoints, "save", 2),
    "waiting for the last save": (Checkpoints, "wait", 7),
    "opening the log": (supervisor, "MetricsLog", 1),
}
QUICK = (
    "a step",
    "before a save",
    "opening the log",
)  # the others are similar


def at(moment, *given):
    return pytest.param(*given, moment, marks=[] if moment in QUICK else pytest.mark.slow)


@pytest.mark.parametrize(
    ("number", "moment"), [at("a step", signal.SIGINT), *(at(moment, signal.SIGTERM) for moment in MOMENTS)]
)
def test_a_signal_saves_and_the_run_resumes(tmp_path, capfd, monkeypatch, moment, number):
    path = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_call(patch, *MOMENTS[moment], number)
        assert start(path) == 128 + number
    assert signal.getsignal(number) is before
    out, err = capfd.readouterr()
    assert "stopping after this step" in err
    if not path.exists():
        assert "nothing was written" in out
        assert start(path) == 0
    else:
        complete = moment == "waiting for the last save"
        assert (f"continue with: python train.py --resume {path}" in out) is not complete
        assert resume(path) == 0
        assert ("is finished" in capfd.readouterr().out) is complete
    assert (records(path), last_state(path)) == uninterrupted()


def test_an_interrupted_validation_is_not_logged(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_call(patch, build, "evaluation_windows", 2, signal.SIGTERM)
        start(path)
    assert [line["step"] for line in records(path) if "val_loss" in line] == [8]
    assert records(path)[-1]["step"] == 16


@pytest.mark.parametrize(
    "place", [at(name) for name in ("a step", "first validation", "before a save", "waiting for the last save")]
)
def test_a_second_ctrl_c_quits_at_once_without_damage(tmp_path, capfd, monkeypatch, place):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_call(patch, *MOMENTS[place], signal.SIGINT, signal.SIGINT)
        assert start(path) == 130
    assert "quit without saving" in capfd.readouterr().err
    assert resume(path) == 0
    assert (records(path), last_state(path)) == uninterrupted()


def test_a_second_sigterm_still_saves(tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_call(patch, Prefetch, "__call__", 11, signal.SIGTERM, signal.SIGTERM)
        assert start(path) == 143
    assert (path / "checkpoints" / "11").is_dir()


def test_metrics_are_fetched_after_the_next_step_was_sent(tmp_path, monkeypatch):
    order = []
    with monkeypatch.context() as patch:
        original = loop.jax.device_get
        patch.setattr(loop.jax, "device_get", lambda tree: order.append("get") or original(tree))
        batch = Prefetch.__call__
        patch.setattr(Prefetch, "__call__", lambda self, step: order.append("send") or batch(self, step))
        assert start(tmp_path / "run", "--steps=5", "--schedule=constant", "--eval-every=99") == 0
    assert order.count("send") >= 5  # the report of the speed takes one more
    assert order[:4] == ["send", "send", "get", "send"]
