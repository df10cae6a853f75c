"""Checkpoints with Orbax, in the background: the last k, the best and every n-th, each complete or absent, none broken.

With a checkpoint goes the digest of every file in it: Orbax notices a file cut short, but not every flipped bit.
The loop waits only for a copy of the state in the host's memory; all of Orbax's work is a thread's.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from jaxopt_mini.tree import by_name
from minigpt_flax.errors import Diverged, Unsaved, UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.schema import SMALL, read_text
from minigpt_flax.train.state import TrainState

DIGESTS = "SHA256SUMS"
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax is writing
REMOVED = ".removed"  # suffix of a checkpoint that is being removed
UNSIGNED = "_CHECKPOINT_METADATA"  # Orbax adds the time to it after the signing; nothing of the state is in it


def _without_echoes(show: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook that passes over what the other writes of a failed save say when they find its event loop closed."""
    return lambda ignored: None if str(ignored.exc_value) == "Event loop is closed" else show(ignored)


# Orbax raises the first error of a save, which reaches a person as one line from here. It also logs it with a
# traceback, and so do the writes that ran beside it.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
sys.unraisablehook = _without_echoes(sys.unraisablehook)


class Checkpoints:
    """The checkpoints of one run: ``checkpoints/<step>/``.

    With several processes all call every method, on one file system; the first one signs and removes.

    Args:
      folder: holds them; made by the first save.
      keep: how many of the latest stay.
      keep_every: those of steps that this divides stay for good; None lets none.

    Attributes:
      scores: validation losses by step, as far as they are known; the checkpoint of the lowest stays too.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int | None = None):
        self.folder, self.keep, self.keep_every = folder.resolve(), keep, keep_every
        self.scores: dict[int, float] = {}
        self._alias = _Alias(self.folder)
        self._checkpointer = _checkpointer(self._sign)
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._current: int | None = None  # the step last saved or restored
        self._saved: int | None = None  # the step last saved
        self._leaves = 0  # arrays in it

    def __enter__(self) -> Checkpoints:
        """Begins.

        Raises:
          UserError: the path can't hold checkpoints here.
        """
        if self.folder.is_dir():
            self._alias.path()
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Lets a save that is under way end, unless somebody can't wait."""
        if kind is None:
            self.wait()
        patient = kind is None or not issubclass(kind, KeyboardInterrupt)
        self._writer.shutdown(wait=patient)
        if patient:
            self._checkpointer.close()
            self._alias.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(int(entry.name) for entry in self._entries() if entry.name.isdecimal() and is_ours(entry))

    def best(self) -> int | None:
        """The step of the lowest validation loss among those that have a checkpoint."""
        return min(self.scores.keys() & set(self.steps()), key=self.scores.__getitem__, default=None)

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Writes a checkpoint in the background, unless this step has just been saved or restored.

        The state may be donated as soon as this returns. What goes wrong shows in ``wait``, here or later.

        Raises:
          Diverged: a parameter isn't finite, or the optimizer's state holds a NaN; nothing is written.
          Unsaved: the checkpoint could not be written.
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
            else:  # each process has a part of the state only; Orbax copies that before it returns
                self._begin(step, state)

    def wait(self) -> None:
        """Waits until the last save is on disk, then removes the checkpoints that it makes superfluous.

        Raises:
          Diverged: it was of a broken state and is not written.
          Unsaved: it could not be written.
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
        broken = first_broken(state)
        if broken is not None:
            raise Diverged(f"{broken} is not finite after step {step}")
        files.make_folder(self.folder)
        place = self.folder / str(step)
        if os.path.lexists(place) and not is_ours(place):
            raise FileExistsError(errno.EEXIST, "something else is in its place", str(place))
        self._leaves = len(jax.tree.leaves(state))
        self._checkpointer.save(self._alias.path() / str(step), state, force=True)

    def _kept(self, saved: int) -> set[int | None]:
        """The steps whose checkpoints stay after that of ``saved``; those of later steps are of an abandoned future."""
        past = [step for step in self.steps() if step <= saved]
        marks = [step for step in past if self.keep_every and 0 < step and step % self.keep_every == 0]
        return {*past[-self.keep :], *marks, self.best()}

    def restore(self, like: TrainState, say: Callable[[str], None]) -> TrainState:
        """Reads the newest checkpoint that can be used.

        Args:
          like: structure, shapes and dtypes of the state (arrays or ``ShapeDtypeStruct``).
          say: takes a line for each newer checkpoint that can't be used.

        Raises:
          UserError: none can.
        """
        errors: list[UserError] = []
        for step in reversed(self.steps()):
            try:
                state = self.read(step, like)
            except UserError as error:
                errors.append(error)
                continue
            for error in errors:
                say(f"{error}; going on from step {step}")
            self._current = step
            return state
        reason = f"{errors[0]}, nor can any other" if errors else f"{show(self.folder)} holds no checkpoint"
        raise UserError(f"{reason}: start the run anew")

    def read(self, step: int, like: TrainState) -> TrainState:
        """Reads one checkpoint.

        Raises:
          UserError: it is missing, damaged, or of another model or optimizer; names the first tensor that differs.
        """
        self.wait()
        path = self._alias.path() / str(step)
        try:
            check_digests(path)
            _check_shapes(self._shapes(path), by_name(like))
            state = self._checkpointer.restore(path, jax.tree.map(_on_device, like))
        except Exception as error:  # damage shows as any error that Orbax or what it calls knows
            raise UserError(f"checkpoint {show(self.folder / str(step))} can't be used ({_line(error)})") from error
        if int(state.step) != step:
            shown = show(self.folder / str(step))
            raise UserError(f"checkpoint {shown} can't be used (it is of step {int(state.step)})")
        return state

    def _shapes(self, path: Path) -> Mapping[str, Any]:
        """Names and shapes of the arrays in a checkpoint.

        Raises:
          UserError: they can't be read.
        """
        try:
            metadata: Any = self._checkpointer.metadata(path).item_metadata
            return by_name(metadata.tree)
        except Exception as error:  # damage shows as any error that Orbax knows; this file alone isn't signed
            raise UserError(f"its file {UNSIGNED} is damaged") from error

    def _sign(self) -> None:
        """Adds the digests to a checkpoint that is written and has not yet got its name.

        Raises:
          OSError: it lacks arrays of the state, or can't be written.
        """
        for entry in self._entries():
            number, _, suffix = entry.name.partition(".")
            if suffix and number == str(self._saved):
                found = count_arrays(self._alias.path() / entry.name)
                if found != self._leaves:
                    raise OSError(f"only {found} of {self._leaves} arrays were written")
                write_digests(entry)

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _remove_all_but(self, kept: set[int | None]) -> None:
        """Removes other checkpoints and what is left of saves and removals that were cut short."""
        if jax.process_index():
            return
        for entry in self._entries():
            number, _, suffix = entry.name.partition(".")
            if number.isdecimal() and is_ours(entry) and (suffix or int(number) not in kept):
                gone = entry if suffix else files.move(entry, entry.with_suffix(REMOVED))  # never half a checkpoint
                files.remove_folder(gone)

    @contextmanager
    def _failing(self, step: int) -> Iterator[None]:
        """Turns whatever goes wrong in a save into one line."""
        try:
            yield
        except Diverged:
            self._current = None
            raise
        except Exception as error:
            self._current = None
            with suppress(Exception):  # of what went on beside it
                self._checkpointer.close()
            self._checkpointer = _checkpointer(self._sign)
            self._remove_all_but(set(self.steps()))  # makes room
            raise Unsaved(f"can't save the checkpoint of step {step}: {_line(error)}") from error


def is_ours(entry: Path) -> bool:
    """Whether something in the checkpoints' folder is a checkpoint, or what a save or a removal left of one."""
    if entry.is_symlink() or not entry.is_dir():
        return False
    unfinished = UNFINISHED in entry.name or entry.suffix == REMOVED
    return unfinished or (entry / DIGESTS).is_file() or (entry / UNSIGNED).is_file()


class _Alias:
    """A path of the checkpoints' folder that Orbax can write to.

    Orbax looks for its own files by a glob, in which ``[``, ``*`` and ``?`` of a folder's name would be wildcards, and
    TensorStore reads a backslash as a separator. Where the path has one of these, an open folder stands for it.
    """

    MAGIC = frozenset("[]*?\\")

    def __init__(self, folder: Path):
        self.folder, self._descriptor = folder, None

    def path(self) -> Path:
        """The path; the folder must exist.

        Raises:
          UserError: the system has no path for an open folder, or other processes would need the same one.
        """
        if not self.MAGIC & set(str(self.folder)):
            return self.folder
        if jax.process_count() > 1 or not Path("/proc/self/fd").is_dir():
            raise UserError(
                f"a path with one of [ ] * ? \\ can't hold this run's checkpoints: move {show(self.folder)}"
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
    """Number of arrays in a checkpoint, as its database lists them."""
    base = {"driver": "file", "path": f"{checkpoint}/"}
    keys = ts.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
    return sum(key.endswith((b"/.zarray", b"/zarr.json")) for key in keys)


def _checkpointer(sign: Callable[[], None]) -> ocp.StandardCheckpointer:
    options = ocp.options.AsyncOptions(
        create_directories_asynchronously=False,  # else a save into a folder that isn't writable hangs at exit
        post_finalization_callback=sign,
    )
    return ocp.StandardCheckpointer(async_options=options)


def first_broken(state: TrainState) -> str | None:
    """Name of the first parameter that isn't finite, or of the first tensor of the optimizer with a NaN.

    An infinity in the optimizer's state may be meant.
    """
    for name, leaf in by_name(state).items():
        math = jnp if isinstance(leaf, jax.Array) else np
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        if inexact and (math.isnan(leaf).any() or name.startswith("params") and math.isinf(leaf).any()):
            return name
    return None


def _check_shapes(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, leaf in expected.items():
        if name not in found:
            raise UserError(f"it has no {name}: it is of another model or optimizer")
        here, there = (f"{x.dtype.name}{list(x.shape)}" for x in (leaf, found[name]))
        if here != there:
            raise UserError(f"{name} is {there} there and {here} by the configuration")
    for name in found.keys() - expected.keys():
        raise UserError(f"it also has {name}: it is of another model or optimizer")


def write_digests(folder: Path) -> None:
    """Writes ``SHA256SUMS``, as ``sha256sum`` does, for the files in a folder."""
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


def _on_device(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _line(error: Exception) -> str:
    """An error as one line that isn't too long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    system = re.search(r"\[os_error_code='(\d+)'", text)  # at the end of TensorStore's longest messages
    return os.strerror(int(system[1])) if system else text if len(text) <= 200 else f"{text[:197]}..."
