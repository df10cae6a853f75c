"""Every logger gets the numbers of metrics.jsonl, read back with its own reader where there is one."""

import json
import math
import struct
import sys
import time

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.runs import loggers
from minigpt_flax.spec import parse
from tests.minigpt_flax.training import call, flags, resume, start

STEPS = ("--stop-after=10", "--log-every=3")


def written(path):
    """(step, name) -> number of every line of metrics.jsonl."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in loggers.numbers(line).items()}


def events(path):
    """(step, name) -> number of every event of TensorBoard, by the format: length, checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted((path / "tensorboard").glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return found


def journal(data):
    """The records of a file of Weights & Biases: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    at, parts = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def same(shown, lines):
    return all(math.isclose(shown[key], value, rel_tol=1e-6) for key, value in lines.items())


def test_tensorboard_has_the_same_numbers(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(time, "time", lambda: 1.8e9)  # both event files are made within one second
    assert start(tmp_path / "run", "--log=tensorboard", *STEPS) == 0
    assert resume(tmp_path / "run") == 0
    shown, lines = events(tmp_path / "run"), written(tmp_path / "run")
    assert {(1, "loss"), (8, "val_loss"), (24, "val_loss")} <= lines.keys()
    assert same(shown, lines)


def test_wandb_has_the_same_numbers_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert start(tmp_path / "run", "--log=wandb", *STEPS) == 0
    (file,) = (tmp_path / "run" / "wandb").rglob("*.wandb")
    shown = {}
    for data in journal(file.read_bytes()):
        items = Record.FromString(data).history.item
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
        shown |= {(row["step"], name): value for name, value in row.items() if "step" in row}
    assert same(shown, written(tmp_path / "run"))


def test_an_absent_package_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    find = loggers.importlib.util.find_spec
    monkeypatch.setattr(
        loggers.importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name)
    )
    assert call(*flags(out=tmp_path, name="run"), "--log=tensorboard") == 2
    said = capfd.readouterr().err
    assert said == "train.py: --log tensorboard needs the package tensorboardX: pip install tensorboardX\n"
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_told_the_nearest():
    with pytest.raises(UserError, match="no logger is called 'tensorbord'.*did you mean 'tensorboard'"):
        loggers.require([parse("tensorbord", "logger")])
