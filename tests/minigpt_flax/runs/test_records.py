"""Records of runs: what a run's files may contain."""

import json
import re

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.runs.records import read_run, wrong_folder
from tests.minigpt_flax.made_runs import write

CONFIG = {"steps": 2, "batch_size": 4, "context": 8, "seed": 0, "lr": 0.1, "opt": "adamw", "data": ["text.txt"]}


def read(folder, env):
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "env.json").write_text(json.dumps(env))
    return read_run(folder)


@pytest.mark.parametrize(
    "env, what",
    [
        ({"data": "text"}, "data must be"),
        ({"data": [1]}, "data must be"),
        ({"data": {"sha256": 3}}, "data: sha256 must be"),
        ({"together": 0}, "together must be at least 1, got 0"),
        ({"together": "2"}, "together must be"),
        ({"state_bytes_per_param": "8"}, "state_bytes_per_param must be"),
    ],
)
def test_a_damaged_environment_is_named(tmp_path, env, what):
    with pytest.raises(UserError, match=f"env.json: {what}"):
        read(tmp_path, env)


def test_the_data_are_their_hash_or_else_their_sources(tmp_path):
    assert read(tmp_path, {"data": {"sha256": "ab"}}).data_id == "ab"
    assert read(tmp_path, {"data": None}).data_id == read(tmp_path, {}).data_id == ("text.txt",)


@pytest.mark.parametrize(
    ("what", "path", "reason"),
    [
        ("run", "runs/demo-adam-0", r"it doesn't exist \(did you mean '.*runs/demo-adamw-0'\?\)"),
        ("run", "nowhere/x", "it doesn't exist"),
        ("run", "runs/demo-adamw-0/metrics.jsonl", "it is a part of .*runs/demo-adamw-0; give that"),
        ("run", "runs/demo-adamw-0/checkpoints/20", "it is a part of .*runs/demo-adamw-0; give that"),
        ("run", "runs", "give one of those in it, such as .*runs/demo-adamw-0"),
        ("run", "runs/both", "give one of those in it, such as .*runs/both/lion/seed0"),
        ("comparison", "runs/demo-adamw-0", "it is that of a run"),
        ("comparison", "runs/both/lion", "it is a part of .*runs/both; give that"),
        ("tuning", "runs/both", "it is that of a comparison"),
        ("run", "app", "it has no config.json"),
        ("run", "app/src", "it has no config.json"),
    ],
)
def test_a_wrong_folder_is_named_with_the_right_one(tmp_path, what, path, reason):
    write(tmp_path / "runs" / "demo-adamw-0", [2.0])
    (tmp_path / "runs" / "demo-adamw-0" / "checkpoints" / "20").mkdir(parents=True)
    write(tmp_path / "runs" / "both" / "lion" / "seed0", [2.0])
    (tmp_path / "runs" / "both" / "comparison.json").write_text("{}")
    (tmp_path / "app" / "src").mkdir(parents=True)
    (tmp_path / "app" / "config.json").write_text("{}")  # of another program
    error = str(wrong_folder(tmp_path / path, what))
    assert re.fullmatch(f".*{path} is not the folder of a {what}: {reason}", error), error
