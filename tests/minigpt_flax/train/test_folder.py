"""The folder of a run: made once, held by one process, read with care."""

import concurrent.futures
from pathlib import Path

import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.invoked import show
from minigpt_flax.train.folder import RunFolder, Taken, create_free


def test_many_at_once_get_folders_of_their_own(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_free(tmp_path, "run").path.name, range(16)))
    assert sorted(folders) == sorted(["run", *(f"run-{n}" for n in range(2, 17))])


def test_a_folder_is_created_once(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    with pytest.raises(Taken, match="exists already and is no run"):
        folder.create()
    folder.fill("{}", {"data": {"sha256": "abc"}}, lambda path: None)
    with pytest.raises(Taken, match="holds another run: give another --name, or continue it with --resume"):
        folder.create()
    assert folder.data_hash() == "abc"
    folder.require()


def test_nothing_half_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()

    def full(path):
        (path / "tokenizer.json").write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        folder.fill("{}", {}, full)
    assert not folder.path.exists()


def test_one_process_holds_it(tmp_path):
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    with first.claim(), pytest.raises(UserError, match="is being trained by process"), second.claim():
        pass
    with second.claim():
        pass


def test_records_after_a_step_are_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.records() == [] and folder.scores() == {}
    lines = ['{"step": 1, "loss": 0.1}', '{"step": 2, "val_loss": 3.0}', '{"step": 3, "val_loss": 2.0}']
    folder.metrics.write_text("\n".join([*lines, '{"step": 4, "lo']))
    assert folder.scores() == {2: 3.0, 3: 2.0}
    folder.forget_after(2)
    assert folder.metrics.read_text() == "\n".join([*lines[:2], ""])


def test_a_damaged_line_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"step": 1}\nx\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2, is no record of a step"):
        folder.records()


def test_paths_are_shown_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show("runs/a") == str(Path("runs/a"))
    assert show(tmp_path.parent / "b") == str(tmp_path.parent / "b")
