"""The model of a run, out of its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from minigpt_flax.data import Tokenizer, load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.lab.records import read, show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.train.build import design
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config import RunConfig, from_json
from minigpt_flax.train.folder import RunFolder


class Restored(NamedTuple):
    """A model as a run left it."""

    model: ModelConfig
    params: Any  # the parameters to use it with: an average, if the optimizer keeps one
    config: RunConfig
    tokenizer: Tokenizer
    step: int  # of the checkpoint


def restore(path: Path, step: str = "best") -> Restored:
    """Reads a checkpoint of a run.

    Args:
      path: the run's folder.
      step: a number of steps, or "last", or "best" (lowest validation loss; the last where there was no validation).

    Raises:
      UserError: no such run or checkpoint, or it can't be read.
    """
    folder = RunFolder(path)
    folder.require()
    config = from_json(read(folder.config), show(folder.config))
    tokenizer = load_tokenizer(folder.path)
    plan = design(config, tokenizer.vocab_size)
    with Checkpoints(folder.checkpoints, config.keep) as checkpoints:
        checkpoints.scores = folder.scores()
        number = _choose(checkpoints, step)
        state = checkpoints.read(number, jax.eval_shape(plan.init))
    return Restored(plan.model, state.evaluation_params, config, tokenizer, number)


def _choose(checkpoints: Checkpoints, step: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{show(checkpoints.folder)} holds no checkpoint yet")
    best = checkpoints.best()
    words = {"last": steps[-1], "best": steps[-1] if best is None else best, **{str(s): s for s in steps}}
    if step not in words:
        raise UserError(f"no checkpoint of step {step!r}; there are: {', '.join(words)}")
    return words[step]
