"""The model of a run, out of its folder alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from minigpt_flax.data import Tokenizer, load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run, build, design
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.run_config import RunConfig, read_config
from minigpt_flax.train.state import TrainState


class Restored(NamedTuple):
    """A model as a run left it."""

    model: ModelConfig
    params: Any  # the parameters to use it with: an average, if the optimizer keeps one
    config: RunConfig
    tokenizer: Tokenizer
    step: int  # of the checkpoint


def settings_of(path: Path) -> tuple[RunFolder, RunConfig, Tokenizer]:
    """The folder of a run, its configuration and its tokenizer, each checked.

    Raises:
      UserError: it is no run, or one of its files is damaged or isn't the one that the run began with.
    """
    folder = RunFolder(path)
    folder.require()
    config = read_config(folder.config).config
    folder.check_tokenizer()
    return folder, config, load_tokenizer(folder.path)


def restore(path: Path, step: str = "best") -> Restored:
    """Reads a checkpoint of a run.

    Args:
      path: the run's folder.
      step: a number of steps, or "last", or "best" (lowest validation loss; the last where there was no validation).

    Raises:
      UserError: no such run or checkpoint, or it can't be read.
    """
    _, config, tokenizer = settings_of(path)
    plan = design(config, tokenizer)
    with open_checkpoints(path) as checkpoints:
        number = _choose(checkpoints, step)
        state = checkpoints.read(number, jax.eval_shape(plan.init))
    return Restored(plan.model, state.evaluation_params, config, tokenizer, number)


def reopen(path: Path, step: str = "last") -> tuple[Run, TrainState]:
    """Builds a run again, its data included, and reads a checkpoint of it whole, to be looked at.

    All on one device, however many it was trained on: what looks at a step hands it plain batches.

    Raises:
      UserError: no such run or checkpoint, it can't be read, or the data has changed.
    """
    folder, config, tokenizer = settings_of(path)
    config = dataclasses.replace(config, mesh="data=1", parallel="jit")
    run = build(config, tokenizer=tokenizer, data_hash=folder.data_hash())
    with open_checkpoints(path) as checkpoints:
        return run, checkpoints.read(_choose(checkpoints, step), run.state)


@contextmanager
def open_checkpoints(path: Path) -> Iterator[Checkpoints]:
    """The checkpoints of a run, for reading, with the validation losses that it has on record."""
    folder = RunFolder(path)
    with Checkpoints(folder.checkpoints, keep=sys.maxsize) as checkpoints:
        checkpoints.scores = folder.scores()
        yield checkpoints


def _choose(checkpoints: Checkpoints, step: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{show(checkpoints.folder)} holds no checkpoint yet")
    best = checkpoints.best()
    words = {"last": steps[-1], "best": steps[-1] if best is None else best, **{str(s): s for s in steps}}
    if step not in words:
        raise UserError(f"no checkpoint of step {step!r}; there are: {', '.join(words)}")
    return words[step]
