"""Storage of a run during training: its folder and checkpoints, or none."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxopt_mini.tree import nbytes
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run
from minigpt_flax.train.carry_over import forms
from minigpt_flax.train.checkpoint import Checkpoints, NoCheckpoints
from minigpt_flax.train.config.run_config import FIXED, RunConfig
from minigpt_flax.train.config.stored import read_config, to_json
from minigpt_flax.train.initial_optimizer import load_optimizer
from minigpt_flax.train.initial_weights import digest, first_params, first_state, initial_weights
from minigpt_flax.train.parallel.agreement import commit, versions
from minigpt_flax.train.parallel.multihost import broadcast_from_first, on_first_process
from minigpt_flax.train.state import TrainState


class Store(NamedTuple):
    """Storage of a run.

    Attributes:
      folder: of the run; None saves nothing to disk.
      checkpoints: in it.
    """

    folder: RunFolder | None
    checkpoints: Checkpoints | NoCheckpoints


@contextmanager
def open_store(run: Run, path: Path | str | None, **facts: Any) -> Iterator[Store]:
    """Opens the folder of a run for this process alone, and creates it if it doesn't exist.

    Args:
      run: the run.
      path: of the folder; None saves nothing.
      **facts: added to ``env.json`` of a new run.

    Raises:
      UserError: it can't be created, another process is using it, or it holds another run.
    """
    if path is None:
        yield Store(None, NoCheckpoints())
        return
    folder = RunFolder(path)
    if folder.config.is_file():
        require_same_numbers(run, folder)
    else:
        broadcast_from_first(lambda: folder.create(reuse=True) and None)
    with on_first_process(folder.claim()):
        if not folder.config.is_file():
            create = lambda: folder.fill(to_json(run.config), environment(run) | facts, run.tokenizer.save)
            broadcast_from_first(create)
        with Checkpoints(folder.checkpoints, run.config.keep, run.config.keep_every) as checkpoints:
            yield Store(folder, checkpoints)


def require_same_numbers(run: Run, folder: RunFolder) -> None:
    """Refuses to continue a folder's run with another configuration.

    Raises:
      UserError: names the first field that differs.
    """
    stored = read_config(folder.config).config
    for name in sorted(FIXED - {"data"}):  # whose hash is compared below
        there, here = getattr(stored, name), getattr(run.config, name)
        if there != here:
            raise UserError(f"{show(folder.path)} holds a run with {name}={there}, not {here}: give another folder")
    if folder.data_hash() != run.data.sha256:
        raise UserError(f"{show(folder.path)} holds a run on other data: give another folder")


def environment(run: Run, params: Any = None) -> dict[str, Any]:
    """The content of ``env.json``: everything beside the configuration that affects the numbers.

    Args:
      run: the run.
      params: its initial parameters from ``--init``; None if they are random.
    """
    return {
        "versions": versions(),
        "machine": platform.platform(),
        "devices": [str(device) for device in jax.devices()],
        "commit": commit(),
        "data": {"name": run.data.name, "sha256": run.data.sha256},
        "init": None if params is None else {"name": run.config.init, "sha256": digest(params)},
        "state_bytes_per_param": state_bytes(run),
    }


def state_bytes(run: Run) -> float:
    """Bytes of optimizer state per parameter."""
    count = sum(leaf.size for leaf in jax.tree.leaves(run.shapes))
    return nbytes(run.state.opt_state) / count


def latest(run: Run, store: Store, warn: Callable[[str], None], began: RunConfig | None = None) -> TrainState:
    """The newest usable state; records of later steps are removed, because they will be written again.

    Args:
      run: the run.
      store: its folder and checkpoints.
      warn: called with a line for each checkpoint that can't be used.
      began: configuration before a change that isn't recorded yet.

    Raises:
      UserError: the run has saved nothing yet, and its initial weights have changed.
    """
    folder, checkpoints = store
    if folder is not None:
        checkpoints.forms = lambda: forms(run, folder, began)
    if checkpoints.steps():
        state = checkpoints.restore(run.state, warn)
    else:  # it ended before the first save: its first state is known all the same
        optimizer = load_optimizer(run.state, initial_weights(run.config.init).load_optimizer)
        state = first_state(run, _first_params(run, folder), optimizer)
    if folder is not None:
        done = int(state.step)
        broadcast_from_first(lambda: folder.forget_after(done))
        checkpoints.scores = folder.scores()
    return state


def _first_params(run: Run, folder: RunFolder | None) -> Any:
    params = first_params(run, initial_weights(run.config.init))
    expected = None if folder is None else folder.init_hash()
    if folder is not None and params is not None and expected not in (None, digest(params)):
        raise UserError(
            f"the weights of --init {run.config.init} have changed since {show(folder.path)} began, which has saved "
            f"none of its own yet: restore those with the SHA-256 {expected}, or start another run"
        )
    return params
