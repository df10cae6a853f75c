"""Checkpoints with Orbax, written in the background: the last k, the best and every n-th, each complete or absent.

A checkpoint contains the digest of each of its files: Orbax detects a truncated file, but not every flipped bit.
The training loop waits only until the state is copied to host memory; a thread does the rest.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from optax import MaskedNode

from jaxopt_mini.tree import by_name
from minigpt_flax.errors import CheckpointError, Diverged, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.schema import SMALL, read_text
from minigpt_flax.train.state import TrainState

DIGESTS = "SHA256SUMS"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax is writing
REMOVED = ".removed"  # suffix of a checkpoint that is being removed
UNSIGNED = "_CHECKPOINT_METADATA"  # Orbax adds the time after the digests are written; holds no part of the state


@contextmanager
def quiet_orbax() -> Iterator[None]:
    """Suppresses duplicate reports of a failed save: only the error that Orbax raises is reported, in one line.

    Orbax also logs that error with a traceback, and the concurrent writes of the same save fail because the event loop
    is closed.
    """
    log, show = logging.getLogger("absl"), sys.unraisablehook

    def not_from_orbax(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    def hook(ignored: Any) -> None:
        if str(ignored.exc_value) != "Event loop is closed":
            show(ignored)

    log.addFilter(not_from_orbax)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        log.removeFilter(not_from_orbax)
        if sys.unraisablehook is hook:
            sys.unraisablehook = show


class Form(NamedTuple):
    """A structure that the state of a run had before a change.

    Attributes:
      like: abstract state.
      carry: (state of this form, abstract state of the present form) -> state of the present form.
    """

    like: TrainState
    carry: Callable[[TrainState, TrainState], TrainState]


class NoCheckpoints:
    """Replaces the checkpoints of a run that isn't saved to disk."""

    def __init__(self):
        self.scores: dict[int, float] = {}
        self.forms: Callable[[], Iterable[Form]] = tuple

    def steps(self) -> list[int]:
        """Returns an empty list."""
        return []

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Records the validation loss.

        Raises:
          Diverged: a parameter is non-finite, or the optimizer state contains a NaN.
        """
        _check_finite(state)
        if val_loss is not None:
            self.scores[int(state.step)] = val_loss

    def wait(self) -> None:
        """Returns at once: no save is in progress."""

    def read(self, step: int, like: TrainState) -> TrainState:
        """Raises: there is no checkpoint to read.

        Raises:
          UserError: always.
        """
        return self.restore(like, print)

    def restore(self, like: TrainState, say: Callable[[str], None]) -> TrainState:
        """Raises: there is no checkpoint to restore.

        Raises:
          UserError: always.
        """
        raise UserError("the run isn't saved to disk: it has no checkpoint to restore")


class Checkpoints:
    """The checkpoints of one run: ``checkpoints/<step>/``.

    With several processes, all call every method, on a shared file system; process 0 writes digests and removes old
    checkpoints.

    Args:
      folder: holds the checkpoints; created by the first save.
      keep: number of latest checkpoints to keep.
      keep_every: checkpoints of multiples of this step are never removed; None for no such checkpoints.

    Attributes:
      scores: known validation losses by step; the checkpoint with the lowest is kept too.
      forms: structures that the state had before a change; their checkpoints are converted.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int | None = None):
        self.folder, self.keep, self.keep_every = Path(os.path.realpath(folder)), keep, keep_every
        self.scores: dict[int, float] = {}
        self.forms: Callable[[], Iterable[Form]] = tuple
        self._quiet = ExitStack()
        self._alias = _Alias(self.folder)
        self._checkpointer = _checkpointer(self._sign)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._current: int | None = None  # the step last saved or restored
        self._failed = False
        self._saved: int | None = None  # the step last saved
        self._leaves = 0  # arrays in it

    def __enter__(self) -> Checkpoints:
        """Checks the path.

        Raises:
          UserError: Orbax can't write to this path.
        """
        if self.folder.is_dir():
            self._alias.path()
        self._quiet.enter_context(quiet_orbax())
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Waits for a save that is in progress, except after a Ctrl-C."""
        with self._quiet:
            if kind is None:
                self.wait()
            interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
            self._writer.shutdown(wait=not interrupted)
            if not interrupted:
                self._checkpointer.close()
                if self._failed:  # writes that ran beside the failed one may have added files since
                    self._remove_all_but(set(self.steps()))
                self._alias.close()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return sorted(int(entry.name) for entry in self._entries() if entry.name.isdecimal() and is_ours(entry))

    def best(self) -> int | None:
        """Returns the step with the lowest validation loss among those that have a checkpoint."""
        return min(self.scores.keys() & set(self.steps()), key=self.scores.__getitem__, default=None)

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Writes a checkpoint in the background, unless this step was the last one saved or restored.

        The state may be donated as soon as this returns. Errors are raised by the next call of ``wait`` or ``save``.

        Raises:
          Diverged: a parameter is non-finite, or the optimizer state contains a NaN; nothing is written.
          CheckpointError: the checkpoint could not be written.
        """
        step = int(state.step)
        if val_loss is not None:
            self.scores[step] = val_loss
        if step == self._current:
            return
        self.wait()
        self._current = self._saved = step
        with self._failing(step):
            if jax.process_count() == 1:
                self._writing = self._writer.submit(self._write, step, jax.tree.map(np.array, state))
            else:  # each process holds a part of the state; Orbax copies it before it returns
                self._begin(step, state)

    def wait(self) -> None:
        """Waits until the last save is on disk, then removes the checkpoints that it replaces.

        Raises:
          Diverged: the state was non-finite; it is not written.
          CheckpointError: the checkpoint could not be written.
        """
        if self._saved is None:
            return
        with self._failing(self._saved):
            writing, self._writing = self._writing, None
            if writing is not None:
                writing.result()
            self._checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                RunFolder(self.folder.parent).mark_saved()
        self._remove_all_but(self._kept(self._saved))

    def _write(self, step: int, state: TrainState) -> None:
        self._begin(step, state)
        self._checkpointer.wait_until_finished()

    def _begin(self, step: int, state: TrainState) -> None:
        _check_finite(state)
        files.make_folder(self.folder)
        place = self.folder / str(step)
        if os.path.lexists(place) and not is_ours(place):
            raise FileExistsError(errno.EEXIST, "another file or folder has its name", str(place))
        saved = _without_empty(state)
        self._leaves = len(jax.tree.leaves(saved))
        self._checkpointer.save(self._alias.path() / str(step), saved, force=True)

    def _kept(self, saved: int) -> set[int | None]:
        """Returns the steps to keep after step ``saved``; later ones are from before a rollback and obsolete."""
        past = [step for step in self.steps() if step <= saved]
        marks = [step for step in past if self.keep_every and 0 < step and step % self.keep_every == 0]
        return {*past[-self.keep :], *marks, self.best()}

    def restore(self, like: TrainState, say: Callable[[str], None]) -> TrainState:
        """Reads the newest intact checkpoint.

        Args:
          like: structure, shapes and dtypes of the state (arrays or ``ShapeDtypeStruct``).
          say: called with a line for each newer checkpoint that can't be used.

        Raises:
          UserError: no checkpoint can be used.
        """
        errors: list[UserError] = []
        for step in reversed(self.steps()):
            try:
                state = self.read(step, like)
            except UserError as error:
                errors.append(error)
                continue
            for error in errors:
                say(f"{error}; continuing from step {step}")
            self._current = step
            return state
        reason = f"{errors[0]}, nor can any other" if errors else f"{show(self.folder)} has no checkpoint"
        raise UserError(f"{reason}: start a new run")

    def read(self, step: int, like: TrainState) -> TrainState:
        """Reads one checkpoint.

        Raises:
          UserError: it is missing or damaged, or of another model or optimizer; names the first tensor that differs.
        """
        self.wait()
        path = self._alias.path() / str(step)
        try:
            check_digests(path)
            form = self._form(path, like)
            stored = like if form is None else form.like
            saved = _without_empty(stored)
            state = _with_empty(self._checkpointer.restore(path, jax.tree.map(_on_device, saved)), stored)
            state = state if form is None else form.carry(state, like)
        except Exception as error:  # damage may raise any error of Orbax or TensorStore
            raise UserError(f"checkpoint {show(self.folder / str(step))} can't be used ({_line(error)})") from error
        if int(state.step) != step:
            shown = show(self.folder / str(step))
            raise UserError(f"checkpoint {shown} can't be used (it is of step {int(state.step)})")
        return state

    def read_params(self, step: int, like: Any) -> Any:
        """Reads the parameters of a checkpoint whose optimizer is unknown.

        Args:
          step: of the checkpoint.
          like: structure, shapes and dtypes of the parameters.

        Raises:
          UserError: it is missing or damaged, or of another model.
        """
        self.wait()
        path = self._alias.path() / str(step)
        try:
            check_digests(path)
            metadata: Any = self._checkpointer.metadata(path).item_metadata
            tree = metadata.tree
            params = {name: leaf for name, leaf in by_name(tree).items() if name.startswith("params/")}
            _check_shapes(params, by_name({"params": like}))
            return self._checkpointer.restore(path, jax.tree.map(_on_device, tree))["params"]
        except Exception as error:  # damage may raise any error of Orbax or TensorStore
            raise UserError(f"checkpoint {show(self.folder / str(step))} can't be used ({_line(error)})") from error

    def _form(self, path: Path, like: TrainState) -> Form | None:
        """Returns the earlier structure that a checkpoint has; None for that of ``like``.

        Raises:
          UserError: it has neither.
        """
        shapes = self._shapes(path)
        difference = _difference(shapes, by_name(_without_empty(like)))
        if difference is None:
            return None
        for form in self.forms():
            if _difference(shapes, by_name(_without_empty(form.like))) is None:
                return form
        raise UserError(difference)

    def _shapes(self, path: Path) -> Mapping[str, Any]:
        """Returns the metadata of the arrays in a checkpoint, by name.

        Raises:
          UserError: it can't be read.
        """
        try:
            metadata: Any = self._checkpointer.metadata(path).item_metadata
            return by_name(metadata.tree)
        except Exception as error:  # damage may raise any error of Orbax; this file alone has no digest
            raise UserError(f"its file {UNSIGNED} is damaged") from error

    def _sign(self) -> None:
        """Writes the digests of a checkpoint before Orbax gives it its final name.

        Raises:
          OSError: arrays of the state are missing, or the digests can't be written.
        """
        for entry in self._entries():
            number, _, suffix = entry.name.partition(".")
            if suffix and number == str(self._saved):
                count = count_arrays(self._alias.path() / entry.name)
                if count != self._leaves:
                    raise OSError(f"only {count} of {self._leaves} arrays were written")
                write_digests(entry)

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _remove_all_but(self, kept: set[int | None]) -> None:
        """Removes other checkpoints, and the remains of interrupted saves and removals."""
        if jax.process_index():
            return
        for entry in self._entries():
            number, _, suffix = entry.name.partition(".")
            if number.isdecimal() and is_ours(entry) and (suffix or int(number) not in kept):
                gone = (
                    entry if suffix else files.move(entry, entry.with_suffix(REMOVED))
                )  # so that it is never half removed
                files.remove_folder(gone)

    @contextmanager
    def _failing(self, step: int) -> Iterator[None]:
        """Turns an error of a save into a ``CheckpointError`` of one line."""
        try:
            yield
        except Diverged:
            self._current = None
            raise
        except Exception as error:
            self._current, self._failed = None, True
            with suppress(Exception):  # of the concurrent writes
                self._checkpointer.close()
            self._checkpointer = _checkpointer(self._sign)
            self._remove_all_but(set(self.steps()))  # frees disk space
            raise CheckpointError(f"can't save the checkpoint of step {step}: {_line(error)}") from error


def is_ours(entry: Path) -> bool:
    """Whether an entry of the checkpoints' folder is a checkpoint, or the remains of an interrupted save or removal."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    unfinished = UNFINISHED in entry.name or entry.suffix == REMOVED
    return unfinished or (entry / DIGESTS).is_file() or (entry / UNSIGNED).is_file()


class _Alias:
    """A path to the checkpoints' folder that Orbax can write to.

    Orbax finds its own files with a glob, in which ``[``, ``*`` and ``?`` of a folder's name would be wildcards, and
    TensorStore reads a backslash as a separator. A path with one of these is replaced by that of an open folder.
    """

    MAGIC = frozenset("[]*?\\")

    def __init__(self, folder: Path):
        self.folder, self._descriptor = folder, None

    def path(self) -> Path:
        """Returns the path; the folder must exist.

        Raises:
          UserError: the system has no paths for open folders, or several processes would need the same one.
        """
        if not self.MAGIC & set(str(self.folder)):
            return self.folder
        if jax.process_count() > 1 or not Path("/proc/self/fd").is_dir():
            raise UserError(
                f"Orbax can't write to a path with one of [ ] * ? \\ here: move {show(self.folder)} to another path"
            )
        if self._descriptor is None:
            self._descriptor = os.open(self.folder, os.O_RDONLY)
        return Path(f"/proc/self/fd/{self._descriptor}")

    def close(self) -> None:
        """Closes the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def count_arrays(checkpoint: Path) -> int:
    """Counts the arrays in a checkpoint's database."""
    base = {"driver": "file", "path": f"{checkpoint}/"}
    keys = ts.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    return sum(key.endswith((b"/.zarray", b"/zarr.json")) for key in keys)


def _checkpointer(sign: Callable[[], None]) -> ocp.StandardCheckpointer:
    options = ocp.options.AsyncOptions(
        create_directories_asynchronously=False,  # else a save to a read-only folder hangs at exit
        post_finalization_callback=sign,
    )
    return ocp.StandardCheckpointer(async_options=options)


def _check_finite(state: TrainState) -> None:
    name = first_nonfinite(state)
    if name is not None:
        raise Diverged(f"{name} is not finite after step {int(state.step)}")


def first_nonfinite(state: TrainState) -> str | None:
    """Returns the name of the first non-finite parameter, or of the first tensor of the optimizer with a NaN.

    An infinity in the optimizer state may be intended.
    """
    for name, leaf in by_name(state).items():
        math = jnp if isinstance(leaf, jax.Array) else np
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        if inexact and (math.isnan(leaf).any() or name.startswith("params") and math.isinf(leaf).any()):
            return name
    return None


def _check_shapes(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if difference := _difference(actual, expected):
        raise UserError(difference)


def _difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """Describes the first difference of a checkpoint's arrays from the expected ones; None if there is none."""
    for name, leaf in expected.items():
        if name not in actual:
            return f"it has no {name}: it belongs to another model or optimizer"
        here, there = (f"{x.dtype.name}{list(x.shape)}" for x in (leaf, actual[name]))
        if here != there:
            return f"{name} is {there} in it and {here} by the configuration"
    for name in sorted(actual.keys() - expected.keys()):
        return f"it also has {name}: it belongs to another model or optimizer"
    return None


def write_digests(folder: Path) -> None:
    """Writes ``SHA256SUMS`` for the files in a folder, in the format of ``sha256sum``."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != UNSIGNED)
    names = [path.relative_to(folder).as_posix() for path in paths]
    files.replace(folder / DIGESTS, "".join(f"{_digest(folder / name)}  {name}\n" for name in names))


def check_digests(folder: Path) -> None:
    """Compares the files in a folder with its ``SHA256SUMS``.

    Raises:
      UserError: one is missing or has changed; names the first.
    """
    lines = read_text(folder / DIGESTS, SMALL).splitlines()
    if not lines:
        raise UserError(f"its file {DIGESTS} is empty")
    for line in lines:
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise UserError(f"its file {name} is damaged")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_empty(state: Any) -> Any:
    """The state without arrays that have no entries, which Orbax does not save."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else MaskedNode(), state)


def _with_empty(saved: Any, like: Any) -> Any:
    """The inverse of :func:`_without_empty`."""

    def one(leaf, value):
        return value if leaf.size else jnp.zeros(leaf.shape, leaf.dtype, device=_on_device(leaf).sharding)

    return jax.tree.map(one, like, saved)


def _on_device(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _line(error: Exception) -> str:
    """Formats an error as one line of at most 200 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    system = re.search(r"\[os_error_code='(\d+)'", text)  # at the end of TensorStore's longest messages
    return os.strerror(int(system[1])) if system else text if len(text) <= 200 else f"{text[:197]}..."
