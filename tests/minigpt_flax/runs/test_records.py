"""Records of runs: what a run's files may contain."""

import json

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.runs.records import read_run

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
