"""The folder of a run, which holds everything that later commands need except the data.

``config.json`` (the configuration), ``env.json`` (versions, devices, commit, data hash), ``tokenizer.json``,
``metrics.jsonl`` (one line per logged step), ``checkpoints/``, ``passed_over.json`` (batches skipped after a rollback),
``speed.json`` (throughput of the last start), ``profile/`` (a trace, with ``--profile``), ``samples.txt``,
``curves.png``; ``.lock``, held by the training process; and ``.saved``, which marks that a checkpoint was saved.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt_flax.errors import TrainingFailed, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import lines, wrong_folder
from minigpt_flax.runs.schema import SMALL, check_type, parse_json, read_json, read_text, sha256

LOCK = ".lock"
HOLDER = "process {} on {}"  # content of the lock file
BEFORE_CONFIG = frozenset({LOCK, "env.json", "tokenizer.json"})  # files written before config.json makes it a run
DEEP = ("checkpoints", "profile", "tensorboard", "diagnosis")  # folders that a run writes to, at any depth
FLAT = (  # files, and folders whose contents are not checked
    "config.json",
    "metrics.jsonl",
    "passed_over.json",
    "changes.jsonl",
    "speed.json",
    "samples.txt",
    "curves.png",
    ".saved",
    "wandb",
)


class Taken(UserError):
    """The folder of a new run exists already."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path | str):
        self.path = Path(os.path.realpath(path))
        self.config = self.path / "config.json"
        self.env = self.path / "env.json"
        self.tokenizer = self.path / "tokenizer.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.speed = self.path / "speed.json"
        self.passed = self.path / "passed_over.json"
        self.changes = self.path / "changes.jsonl"
        self.profile = self.path / "profile"
        self.samples = self.path / "samples.txt"
        self.curves = self.path / "curves.png"
        self.saved = self.path / ".saved"
        self._identity: tuple[int, int] | None = None  # device and inode, while claimed

    def create(self, reuse: bool = False) -> RunFolder:
        """Makes the folder of a new run; returns itself.

        Args:
          reuse: accept an existing folder that is empty or left by an interrupted start.

        Raises:
          UserError: the folder isn't empty, or can't be made.
        """
        try:
            files.make_new_folder(self.path)
            return self
        except FileExistsError as error:
            if not reuse:
                raise self.taken() from error
            self.require_free()
            return self
        except OSError as error:
            raise UserError(f"can't make the folder {show(self.path)}: {error.strerror}") from error

    def require_free(self) -> None:
        """Refuses an existing path, except an empty folder or one left by an interrupted start.

        Raises:
          UserError: the path exists.
        """
        try:
            os.lstat(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"can't make the folder {show(self.path)}: {error.strerror}") from error
        else:
            names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else {self.path.name}
            if names and not self._interrupted_start(names):
                raise self.taken()

    def _interrupted_start(self, names: Iterable[str]) -> bool:
        """Whether a folder has only the first files of a run, and a lock file of this program."""
        permanent = {name for name in names if not files.is_temporary(name)}
        if not permanent <= BEFORE_CONFIG or LOCK not in permanent or files.find_link(self.path, permanent):
            return False
        return permanent == {LOCK} or read_text(self.path / LOCK).startswith(HOLDER.partition("{")[0])

    def taken(self) -> Taken:
        """The error of a new run whose folder exists already."""
        if self.config.is_file():
            remedy = f"give another --name, or continue it with --resume {show(self.path)}"
            return Taken(f"{show(self.path)} holds another run: {remedy}")
        if self.holds_run:
            return Taken(f"{show(self.path)} holds a run that has lost its config.json: give another --name")
        return Taken(f"{show(self.path)} exists already and is not a run: give another --name")

    @property
    def holds_run(self) -> bool:
        """Whether the folder has files that only a run has."""
        return self.metrics.exists() or self.checkpoints.exists()

    def fill(self, config: str, env: Mapping[str, Any], save_tokenizer: Callable[[Path], None]) -> None:
        """Writes the files that stay constant; ``config.json`` last, as it makes the folder a run.

        Raises:
          UserError: the files can't be written; the written ones are removed.
        """
        try:
            save_tokenizer(self.path)
            if self.tokenizer.is_file():
                env = {**env, "tokenizer": {"sha256": sha256(self.tokenizer)}}
            files.replace(self.env, json.dumps(env, indent=2) + "\n")
            files.make_folder(self.checkpoints)
            files.replace(self.config, config)
        except OSError as error:
            self._undo()
            raise UserError(f"can't write {show(self.path)}: {error.strerror}") from error

    def update_config(self, config: str) -> None:
        """Replaces ``config.json``, for a run that continues with more steps, moved data or changed settings.

        Raises:
          UserError: it can't be written.
        """
        _replace(self.config, config)

    def record_change(self, step: int, changes: Mapping[str, Any]) -> None:
        """Appends to ``changes.jsonl`` what a resumed run changes, from which step on.

        Raises:
          UserError: it can't be read or written.
        """
        before = read_text(self.changes, SMALL) if self.changes.exists() else ""
        _replace(self.changes, f"{before}{json.dumps({'step': step, **changes})}\n")

    def recorded_changes(self) -> list[dict[str, Any]]:
        """Reads ``changes.jsonl``, in order.

        Raises:
          UserError: it is damaged.
        """
        text = read_text(self.changes, SMALL) if self.changes.exists() else ""
        changes = [parse_json(line, show(self.changes)) for line in text.splitlines()]
        for change in changes:
            for name in change.keys() - {"step"}:
                if len(check_type(change[name], tuple[Any, ...], f"{show(self.changes)}: {name}")) != 2:
                    raise UserError(f"{show(self.changes)} is damaged: {name} is not [old, new]")
        return changes

    def _undo(self) -> None:
        """Removes the files that :meth:`fill` wrote."""
        with contextlib.suppress(OSError):
            for path in (self.config, self.env, self.tokenizer, self.path / LOCK):
                files.remove_file(path)
            files.remove_empty_folder(self.checkpoints)
            files.remove_empty_folder(self.path)

    def require(self) -> None:
        """Refuses a path that isn't the folder of a run.

        Raises:
          UserError: there is no folder, or no ``config.json`` in it.
        """
        if not self.config.is_file():
            if self.holds_run:
                raise UserError(f"{show(self.path)} holds a run that has lost its config.json: restore the file")
            raise wrong_folder(self.path, "run")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Locks the folder for this process; the system releases the lock when the process ends.

        Raises:
          UserError: another process holds the lock, the folder can't be written, or it has a symbolic link.
        """
        self._refuse_links()
        try:
            file = files.open_lock(self.path / LOCK)
        except OSError as error:
            raise UserError(f"can't write {show(self.path / LOCK)}: {error.strerror}") from error
        with file:
            if not files.try_lock(file):
                holder = file.read(200).decode("utf-8", "replace") or "another process"
                raise UserError(f"{show(self.path)} is being trained by {holder}: wait for it, or end it")
            with contextlib.suppress(OSError):  # a full disk; the error above then can't name the process
                files.set_content(file, HOLDER.format(os.getpid(), socket.gethostname()).encode())
            files.remove_temporary(self.path)
            self._identity = _identity(self.path)
            yield

    def _refuse_links(self) -> None:
        link = files.find_link(self.path, DEEP) or files.find_link(self.path, (*BEFORE_CONFIG, *FLAT), deep=False)
        if link is not None:
            raise UserError(
                f"{show(self.path)} has a symbolic link, {link.relative_to(self.path)}, through which a file elsewhere "
                "would be changed: replace it by the file or folder itself"
            )

    def require_present(self) -> None:
        """Checks that the folder still exists at its path.

        Raises:
          TrainingFailed: it was moved or removed since :meth:`claim`.
        """
        if self._identity is not None and _identity(self.path) != self._identity:
            raise TrainingFailed(
                f"{show(self.path)} was moved or removed during the run: nothing more can be saved in it"
            )

    def require_checkpoints(self, steps: Iterable[int], version: int) -> None:
        """Refuses to start over if a run has lost its checkpoints.

        Args:
          steps: of the checkpoints.
          version: of ``config.json``; version 1 didn't record whether a checkpoint was saved.

        Raises:
          UserError: it had checkpoints, and has none.
        """
        if any(True for _ in steps):
            return
        missing = not self.checkpoints.is_dir() and (version > 1 or bool(self.scores()))
        if missing or self.saved.exists():
            raise UserError(
                f"{show(self.path)} has lost its checkpoints: restore {show(self.checkpoints)}, or start another run"
            )

    def mark_saved(self) -> None:
        """Records that the run has saved a checkpoint.

        Raises:
          OSError: the mark can't be written.
        """
        if not self.saved.exists():
            files.replace(self.saved, b"")

    def check_tokenizer(self) -> None:
        """Refuses a ``tokenizer.json`` that changed since the run began; old runs have no digest of it.

        Raises:
          UserError: it has changed, or ``env.json`` is damaged.
        """
        expected = self._began_with("tokenizer", lambda env: (env.get("tokenizer") or {}).get("sha256"))
        if expected not in (None, sha256(self.tokenizer)):
            raise UserError(
                f"{show(self.tokenizer)} is not the file that the run began with: restore the one with the "
                f"SHA-256 {expected}"
            )

    def data_hash(self) -> str:
        """Hash of the data at the start of the run.

        Raises:
          UserError: ``env.json`` is missing or damaged.
        """
        return str(self._began_with("data", lambda env: env["data"]["sha256"]))

    def init_hash(self) -> str | None:
        """Hash of the weights of ``--init`` at the start of the run; None with random initial weights.

        Raises:
          UserError: ``env.json`` is missing or damaged.
        """
        return self._began_with("weights", lambda env: (env.get("init") or {}).get("sha256"))

    def _began_with(self, what: str, find: Callable[[Any], Any]) -> Any:
        env = read_json(self.env)
        try:
            return check_type(find(env), str | None, f"{show(self.env)}: the hash of the {what}")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{show(self.env)} is damaged: it lacks the hash of the run's {what}") from error

    def records(self) -> list[dict[str, Any]]:
        """Reads ``metrics.jsonl``, without a last line that a crash has truncated.

        Raises:
          UserError: another line is damaged.
        """
        return [record for _, record in lines(self.metrics)]

    def scores(self) -> dict[int, float]:
        """Validation losses by step."""
        return {record["step"]: record["val_loss"] for record in self.records() if "val_loss" in record}

    def forget_after(self, step: int) -> None:
        """Removes the records of steps after ``step``, which a resumed run will write again.

        Raises:
          UserError: the file is damaged, or can't be written.
        """
        _replace(self.metrics, "".join(line for line, record in lines(self.metrics) if record["step"] <= step))

    def passed_over(self) -> list[int]:
        """Reads the numbers of the skipped batches, in order.

        Raises:
          UserError: ``passed_over.json`` is damaged.
        """
        if not self.passed.exists():
            return []
        content = parse_json(f'{{"batches": {read_text(self.passed)}}}', show(self.passed))
        return sorted(check_type(content["batches"], tuple[int, ...], show(self.passed)))

    def pass_over(self, batches: Iterable[int]) -> None:
        """Writes the numbers of the skipped batches.

        Raises:
          UserError: they can't be written.
        """
        _replace(self.passed, json.dumps(sorted(batches)) + "\n")


def _replace(path: Path, text: str) -> None:
    try:
        files.replace(path, text)
    except OSError as error:
        raise UserError(f"can't write {show(path)}: {error.strerror}") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; None if it doesn't exist."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def create_free(out: Path | str, stem: str) -> RunFolder:
    """Makes the first folder of ``stem``, ``stem-2``, ``stem-3``, ... that doesn't exist.

    Runs that start at the same moment get different folders.

    Raises:
      UserError: the folder can't be made.
    """
    for number in itertools.count(1):
        folder = RunFolder(Path(out) / (stem if number == 1 else f"{stem}-{number}"))
        try:
            return folder.create()
        except Taken:
            continue
    raise AssertionError("there is always another number")
