"""``export``: what is written is the run's model; mistakes in one line."""

import jax
import numpy as np

from minigpt_flax.__main__ import main
from minigpt_flax.model.gpt2_folder import load_gpt2
from minigpt_flax.train.restore import restore


def test_the_folder_holds_the_runs_model(trained, tmp_path, capfd):
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert "config.json, model.safetensors, of step " in capfd.readouterr().out
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
        ([str(trained), "--out", str(tmp_path)], "can't make the folder"),
        ([str(tmp_path), "--out", str(tmp_path / "out")], "is not the folder of a run"),
        ([str(trained)], "the following arguments are required: --out"),
    ):
        assert main(["export", *arguments]) == 2
        said = capfd.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()
