"""The folder of a run: made once, held by one process, read with care."""

import concurrent.futures
import json
import re
from pathlib import Path

import pytest

from minigpt_flax.errors import Failed, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import BEFORE_CONFIG, DEEP, FLAT, RunFolder, Taken, create_free


def line(step, **values):
    """A line of ``metrics.jsonl``."""
    return json.dumps({"step": step, "tokens": step, "seconds": 0.1, **values})


def test_many_at_once_get_folders_of_their_own(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_free(tmp_path, "run").path.name, range(16)))
    assert sorted(folders) == sorted(["run", *(f"run-{n}" for n in range(2, 17))])


def test_a_folder_is_created_once(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    with pytest.raises(Taken, match="exists already and is not a run"):
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
    lines = [line(1, loss=0.1), line(2, val_loss=3.0), line(3, val_loss=2.0)]
    folder.metrics.write_text("\n".join([*lines, '{"step": 4, "lo']))
    assert folder.scores() == {2: 3.0, 3: 2.0}
    folder.forget_after(2)
    assert folder.metrics.read_text() == "\n".join([*lines[:2], ""])


def test_a_damaged_line_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text(f"{line(1)}\nx\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2, is not a record of a step"):
        folder.records()


def test_paths_are_shown_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show("runs/a") == str(Path("runs/a"))
    assert show(tmp_path.parent / "b") == str(tmp_path.parent / "b")


def started(path):
    """A folder as a run that has begun leaves it."""
    folder = RunFolder(path).create()
    with folder.claim():
        folder.fill("{}", {"data": {"sha256": "abc"}}, lambda to: (to / "tokenizer.json").write_text("{}"))
    return folder


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints", "samples.txt", "notes.txt"])
def test_a_folder_with_anything_of_a_run_or_of_a_user_is_not_free(tmp_path, name):
    folder = started(tmp_path / "run")
    folder.config.unlink()
    folder.checkpoints.rmdir()
    folder.require_free()  # what a start leaves that is cut short before config.json
    (folder.path / name).mkdir() if name == "checkpoints" else (folder.path / name).write_text("precious")
    with pytest.raises(Taken, match="give another --name"):
        folder.create(reuse=True)


@pytest.mark.parametrize("names", [["tokenizer.json"], ["env.json"], [".lock", "tokenizer.json"], ["config"]])
def test_files_that_only_look_like_a_start_are_not_taken(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("precious")
    with pytest.raises(Taken):
        RunFolder(tmp_path).create(reuse=True)


EVERY_NAME = [
    *sorted(BEFORE_CONFIG),
    *FLAT,
    *DEEP,
    "checkpoints/10",
    "checkpoints/10/d",
    "tensorboard/events",
    "diagnosis/x.png",
]


@pytest.mark.parametrize("name", EVERY_NAME)
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_run_with_a_link_is_not_claimed(tmp_path, name, kind):
    folder = started(tmp_path / "run")
    link, target = folder.path / name, tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "a.jpg").write_text("precious")
    elif kind == "file":
        target.write_text("precious")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.rmdir() if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(target)
    with pytest.raises(UserError, match=re.escape(name)), folder.claim():
        pass
    text = target / "a.jpg" if kind == "folder" else target
    assert not target.exists() if kind == "nothing" else text.read_text() == "precious"


def test_a_run_that_was_moved_or_removed_ends(tmp_path):
    folder = started(tmp_path / "run")
    folder.require_present()
    with folder.claim():
        folder.require_present()
        folder.path.rename(tmp_path / "elsewhere")
        with pytest.raises(Failed, match="was moved or removed during the run"):
            folder.require_present()
        folder.path.mkdir()  # another one under the same name
        with pytest.raises(Failed, match="was moved or removed"):
            folder.require_present()


def test_a_run_that_has_lost_its_checkpoints_does_not_start_over(tmp_path):
    folder = started(tmp_path / "run")
    folder.require_checkpoints([], version=2)  # it has saved nothing yet
    folder.mark_saved()
    folder.require_checkpoints([10], version=2)
    with pytest.raises(UserError, match="has lost its checkpoints"):
        folder.require_checkpoints([], version=2)
    folder.saved.unlink()
    folder.checkpoints.rmdir()
    with pytest.raises(UserError, match="has lost its checkpoints"):
        folder.require_checkpoints([], version=2)
    folder.require_checkpoints([], version=1)  # old runs made that folder with their first checkpoint
    folder.metrics.write_text(line(2, val_loss=3.0) + "\n")
    with pytest.raises(UserError, match="has lost its checkpoints"):
        folder.require_checkpoints([], version=1)


def test_another_tokenizer_is_refused(tmp_path):
    folder = started(tmp_path / "run")
    folder.check_tokenizer()
    folder.tokenizer.write_text('{"other": 1}')
    with pytest.raises(UserError, match="is not the file that the run began with"):
        folder.check_tokenizer()
