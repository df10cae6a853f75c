"""``export``: what is written is the run's model; mistakes in one line."""

import errno
import os

import jax
import numpy as np

from minigpt_flax.__main__ import main
from minigpt_flax.model.huggingface import load_gpt2
from minigpt_flax.runs.files import MARKER
from minigpt_flax.train.restore import restore

FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_the_folder_holds_the_runs_model(trained, tmp_path, capfd):
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert "config.json, model.safetensors, tokenizer.json, tokenizer_config.json, of step " in capfd.readouterr().out
    ours = restore(trained).params
    config, params = load_gpt2(tmp_path / "out")
    assert config.vocab_size == restore(trained).model.vocab_size
    for path, leaf in jax.tree.leaves_with_path(ours):
        found = params
        for part in path:
            found = found[part.key]
        np.testing.assert_array_equal(found, leaf)


def test_mistakes_end_in_one_line(trained, tmp_path, capfd):
    for arguments, says in (
        ([str(trained), "--out", str(tmp_path)], "exists already"),
        ([str(tmp_path), "--out", str(tmp_path / "out")], "is not the folder of a run"),
        ([str(trained)], "the following arguments are required: --out"),
    ):
        assert main(["export", *arguments]) == 2
        said = capfd.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(trained, tmp_path, capfd, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("minigpt_flax.model.weight_files.replace", full)
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert "No space left on device; the folder was removed" in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_what_a_killed_export_left_is_replaced(trained, tmp_path):
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / MARKER).touch()
    (left / "model.safetensors").write_bytes(b"half")
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == FILES
