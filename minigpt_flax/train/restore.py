"""The model of a run, out of its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from minigpt_flax.data import load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.lab.records import read, show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.train.build import design
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config import from_json
from minigpt_flax.train.folder import RunFolder


def restore(path: Path, step: str = "best") -> tuple[ModelConfig, Any]:
    """Reads a checkpoint of a run.

    Args:
      path: the run's folder.
      step: a number of steps, or "last", or "best" (lowest validation loss; the last where there was no validation).

    Returns:
      The model's configuration and the parameters to use it with.

    Raises:
      UserError: no such run or checkpoint, or it can't be read.
    """
    folder = RunFolder(path)
    folder.require()
    config = from_json(read(folder.config), show(folder.config))
    plan = design(config, load_tokenizer(folder.path).vocab_size)
    with Checkpoints(folder.checkpoints, config.keep) as checkpoints:
        checkpoints.scores = folder.scores()
        state = checkpoints.read(_choose(checkpoints, step), jax.eval_shape(plan.init))
    return plan.model, state.evaluation_params


def _choose(checkpoints: Checkpoints, step: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{show(checkpoints.folder)} holds no checkpoint yet")
    best = checkpoints.best()
    words = {"last": steps[-1], "best": steps[-1] if best is None else best, **{str(s): s for s in steps}}
    if step not in words:
        raise UserError(f"no checkpoint of step {step!r}; there are: {', '.join(words)}")
    return words[step]
