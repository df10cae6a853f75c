"""The end of a run: the files that it writes, also after it was killed, and the commands that it shows."""

import shlex

import pytest

from minigpt_flax import load
from minigpt_flax.__main__ import main as minigpt
from minigpt_flax.train.artifacts import example_prompt
from minigpt_flax.train.restore import load_run_data, settings_of
from tests.minigpt_flax.training import flags
from train import main


def test_a_finished_run_writes_what_is_missing_and_changes_nothing_else(tmp_path, capfd):
    path = tmp_path / "a"
    assert main(flags(out=tmp_path, name="a", sample_tokens=16)) == 0
    kept = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    for name in ("samples.txt", "curves.png"):
        (path / name).unlink()
    assert main(["--resume", str(path)]) == 0
    assert "wrote what was missing: samples.txt, curves.png" in capfd.readouterr().out
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == kept
    assert main(["--resume", str(path)]) == 0
    assert "missing" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "深度学习的优化器\n",
        pytest.param("The cat sat. Then it ran.\n", marks=pytest.mark.slow),
        pytest.param("12 34 56\n", marks=pytest.mark.slow),
    ],
)
def test_the_command_shown_at_the_end_works_on_the_text(text, tmp_path, capfd):
    book = tmp_path / "book.txt"
    book.write_text(text * 40, encoding="utf-8")
    assert main(flags(out=tmp_path, name="run", data=book)) == 0
    split = load_run_data(*settings_of(tmp_path / "run")).parts[0].val
    shown = example_prompt(load(tmp_path / "run").tokenizer, split)
    assert f"--prompt {shlex.quote(shown)}" in capfd.readouterr().out
    assert minigpt(["sample", str(tmp_path / "run"), "--prompt", shown, "--max-tokens=2"]) == 0
