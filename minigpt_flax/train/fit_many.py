"""Train several runs of equal length in one program, with ``jax.vmap`` over their learning rates and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from minigpt_flax.errors import Diverged
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Callback
from minigpt_flax.train.loop import StepFunction, advance
from minigpt_flax.train.reporter import StepTimer
from minigpt_flax.train.store import Store, open_store
from minigpt_flax.train.supervisor import History, Supervisor


def fit_many(
    runs: Sequence[Run],
    folders: Sequence[Path],
    step: StepFunction,
    init: Callable[[], Any],
    *,
    stop: Callable[[], bool],
    callback: Callback,
) -> list[Diverged | None]:
    """Train several runs of equal length in one program, from their latest common checkpoint.

    Args:
      runs: the runs; each has its own batches, validations and checkpoints.
      folders: folders of the runs.
      step: ``(stacked states, stacked batches) -> (stacked states, stacked metrics)``.
      init: ``() -> stacked initial states``.
      stop: called before every step; True saves and stops.
      callback: called for every run that has not diverged.

    Returns:
      For each run, the error with which it diverged, or None.
    """
    with ExitStack() as opened:
        stores = [
            opened.enter_context(open_store(run, folder, together=len(runs)))
            for run, folder in zip(runs, folders, strict=True)
        ]
        states = _common(runs, stores, init)
        split = lambda tree: [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(len(runs))]
        supervisors = []
        for run, store, state in zip(runs, stores, split(states), strict=True):
            history = History([] if store.folder is None else store.folder.records())
            supervised = Supervisor(run, state, store, [callback], StepTimer(), history, tolerant=True)
            supervisors.append(opened.enter_context(supervised))
        batches = lambda done: stack([run.batches(done) for run in runs])
        advance(lambda number: step, batches, states, supervisors, stop, runs[0].config.steps, split=split)
        return [supervisor.diverged for supervisor in supervisors]


def _common(runs: Sequence[Run], stores: Sequence[Store], init: Callable[[], Any]) -> Any:
    """The stacked states of the latest step that all runs have saved, else the initial states."""
    steps = set.intersection(*(set(store.checkpoints.steps()) for store in stores))
    done = max(steps, default=0)
    for store in stores:
        if store.folder is not None:
            store.folder.forget_after(done)
            store.checkpoints.scores = store.folder.scores()
    if not done:
        return init()
    return stack([store.checkpoints.read(done, run.state) for run, store in zip(runs, stores, strict=True)])


def stack(trees: Sequence[Any]) -> Any:
    """Stack trees of equal structure along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
