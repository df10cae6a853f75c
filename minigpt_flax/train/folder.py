"""A run is a folder: everything that a later command needs, and nothing else.

``config.json`` (all words and numbers), ``env.json`` (versions, devices, commit, data hash), ``tokenizer.json``,
``metrics.jsonl`` (a line a logged step), ``checkpoints/``, ``passed_over.json`` (batches that broke a step),
``speed.json`` (how fast the last sitting was), ``profile/`` (a trace, if asked for), ``samples.txt``, ``curves.png``;
and ``.lock``, which the process that trains it holds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.invoked import show
from minigpt_flax.lab.records import lines
from minigpt_flax.runs.schema import read_text


class Taken(UserError):
    """The folder of a new run is there already."""


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path | str):
        self.path = Path(path).resolve()
        self.config = self.path / "config.json"
        self.env = self.path / "env.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.speed = self.path / "speed.json"
        self.passed = self.path / "passed_over.json"
        self.profile = self.path / "profile"
        self.samples = self.path / "samples.txt"
        self.curves = self.path / "curves.png"

    def create(self, reuse: bool = False) -> RunFolder:
        """Makes the folder of a new run; returns itself.

        Args:
          reuse: take one that is empty, or that a run which was ended before it began has left.

        Raises:
          UserError: something is there already, or the folder can't be made.
        """
        try:
            self.path.mkdir(parents=True)
            return self
        except FileExistsError as error:
            if not reuse:
                raise self.taken() from error
            self.require_free()
            return self
        except OSError as error:
            raise UserError(f"can't make the folder {show(self.path)}: {error.strerror}") from error

    def require_free(self) -> None:
        """Refuses a place where something is, but for an empty folder or what a run left that ended before it began.

        Raises:
          UserError: something is there.
        """
        if self.path.exists():
            names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else {self.path.name}
            if names and (".lock" not in names or self.config.name in names):
                raise self.taken()

    def taken(self) -> Taken:
        """The error of a new run whose folder is there already."""
        if self.config.is_file():
            way = f"give another --name, or continue it with --resume {show(self.path)}"
            return Taken(f"{show(self.path)} holds another run: {way}")
        return Taken(f"{show(self.path)} exists already and is no run: give another --name")

    def fill(self, config: str, env: Mapping[str, Any], save_tokenizer: Callable[[Path], None]) -> None:
        """Writes what stays the same for the whole run; ``config.json`` last, as it makes the folder a run.

        Raises:
          UserError: the files can't be written; the folder is gone again.
        """
        try:
            save_tokenizer(self.path)
            self.env.write_text(json.dumps(env, indent=2) + "\n", encoding="utf-8")
            _write(self.config, config)
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise UserError(f"can't write {show(self.path)}: {error.strerror}") from error

    def require(self) -> None:
        """Refuses a path that isn't the folder of a run.

        Raises:
          UserError: no folder, or no ``config.json`` in it.
        """
        if not self.config.is_file():
            raise UserError(f"{show(self.path)} is not the folder of a run: it has no config.json")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Holds the folder for this process alone. The system lets go for a process that is killed.

        Raises:
          UserError: another process holds it, or the folder can't be written.
        """
        try:
            file = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"can't write {show(self.path)}: {error.strerror}") from error
        with file:
            file.seek(0)
            if not _lock(file):
                holder = file.read() or "another process"
                raise UserError(f"{show(self.path)} is being trained by {holder}: wait for it, or end it")
            with contextlib.suppress(OSError):  # a full disk: then nobody can be told who it is
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield

    def data_hash(self) -> str:
        """Hash of the data that the run began with.

        Raises:
          UserError: ``env.json`` is missing or damaged.
        """
        return str(self._began_with("data", lambda env: env["data"]["sha256"]))

    def init_hash(self) -> str | None:
        """Hash of the weights of ``--init`` that the run began with; None where they were drawn.

        Raises:
          UserError: ``env.json`` is missing or damaged.
        """
        return self._began_with("weights", lambda env: (env.get("init") or {}).get("sha256"))

    def _began_with(self, what: str, find: Callable[[Any], Any]) -> Any:
        text = read_text(self.env)
        try:
            return find(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{show(self.env)} is damaged: it doesn't say what {what} the run began with") from error

    def records(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line cut short by a crash is left out.

        Raises:
          UserError: another line is damaged.
        """
        return [record for _, record in lines(self.metrics)]

    def scores(self) -> dict[int, float]:
        """Validation losses by step."""
        return {record["step"]: record["val_loss"] for record in self.records() if "val_loss" in record}

    def forget_after(self, step: int) -> None:
        """Drops the records of steps after ``step``, which a resumed run will write again.

        Raises:
          UserError: the file is damaged, or can't be written.
        """
        kept = "".join(line for line, record in lines(self.metrics) if record["step"] <= step)
        _replace(self.metrics, kept)

    def passed_over(self) -> list[int]:
        """Numbers of the batches that the run goes without, in order.

        Raises:
          UserError: ``passed_over.json`` is damaged.
        """
        if not self.passed.exists():
            return []
        try:
            return sorted(int(batch) for batch in json.loads(read_text(self.passed)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{show(self.passed)} is damaged: it is no list of numbers") from error

    def pass_over(self, batches: Iterable[int]) -> None:
        """Writes the numbers of the batches that the run goes without.

        Raises:
          UserError: they can't be written.
        """
        _replace(self.passed, json.dumps(sorted(batches)) + "\n")


def _replace(path: Path, text: str) -> None:
    try:
        _write(path, text)
    except OSError as error:
        raise UserError(f"can't write {show(path)}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """Writes a file anew: the old text or the new, never a part."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def create_free(out: Path | str, stem: str) -> RunFolder:
    """Makes the first of ``stem``, ``stem-2``, ``stem-3``, ... that isn't there.

    Runs that start at the same moment get different ones.

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


def _lock(file: Any) -> bool:
    """Takes the lock of an open file; False when another process has it. Where there are no locks, takes none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
