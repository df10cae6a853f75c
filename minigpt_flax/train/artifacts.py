"""Files written at the end of a run: ``samples.txt`` and ``curves.png``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minigpt_flax.data import Tokenizer, Tokens
from minigpt_flax.errors import UserError
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.records import read_run
from minigpt_flax.train.build import Run
from minigpt_flax.train.parallel.multihost import is_first
from minigpt_flax.train.parallel.sharding import local
from minigpt_flax.train.restore import TrainedModel, restore
from minigpt_flax.train.sample import TEMPERATURE, sample
from minigpt_flax.train.state import TrainState

PROMPT = "The "
PROMPT_TOKENS = 4  # of the data, where the tokenizer lacks these letters


class Outcome(NamedTuple):
    """Results of a finished run.

    Attributes:
      final: record of the last validation.
      best: record of the validation with the lowest loss.
      sample: text from the model, if the run asks for one.
      prompt: text that the run's tokenizer can encode, for an example of a command.
    """

    final: Mapping[str, Any]
    best: Mapping[str, Any]
    sample: str | None = None
    prompt: str = ""


def write_artifacts(run: Run, folder: RunFolder, state: TrainState) -> Outcome | None:
    """Writes the curves and the sample of a finished run into its folder; returns None except in process 0."""
    params = local(state.evaluation_params, run.mesh)
    if not is_first():
        return None
    outcome = outcome_of(folder.records())
    if outcome is None:
        return None
    text = write_sample(run, params, folder)
    write_curves(folder)
    return outcome._replace(sample=text, prompt=example_prompt(run.tokenizer, run.data.parts[0].val))


def example_prompt(tokenizer: Tokenizer, tokens: Tokens) -> str:
    """An example prompt that a tokenizer can encode: English if possible, else the first tokens of the data.

    Args:
      tokenizer: of the run.
      tokens: of its data.
    """
    with contextlib.suppress(UserError):
        if tokenizer.decode(tokenizer.encode(PROMPT)).strip() == PROMPT.strip():  # a word list has a token for the rest
            return PROMPT
    return tokenizer.decode(np.asarray(tokens[:PROMPT_TOKENS])).split("\n")[0]


def outcome_of(records: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """The results from the records of a run; None without a validation."""
    validations = [record for record in records if record.get("val_loss") is not None]
    if not validations:
        return None
    return Outcome(validations[-1], min(validations, key=lambda record: record["val_loss"]))


def write_sample(model: Run | TrainedModel, params: Any, folder: RunFolder) -> str | None:
    """Writes ``samples.txt``, if the run asks for a sample; the same parameters give the same text."""
    config = model.config
    if not config.sample_tokens:
        return None
    how = {"max_tokens": config.sample_tokens, "temperature": TEMPERATURE, "seed": config.seed, "ignore_eos": True}
    (text,) = sample(model.model, params, model.tokenizer, **how)
    files.replace(folder.samples, text)
    return text


def write_curves(folder: RunFolder) -> None:
    """Writes ``curves.png``."""
    from minigpt_flax.runs.plots import curves  # Matplotlib, which takes long to import

    record = read_run(folder.path)
    curves(record.records, folder.curves, f"{record.name}: {record.config['opt']}")


def complete_artifacts(folder: RunFolder, sample_tokens: int) -> list[str]:
    """Writes the files that a finished run lacks because it was killed before; returns their names."""
    made = []
    if is_first() and sample_tokens and not folder.samples.exists():
        model = restore(folder.path, "last")
        write_sample(model, model.params, folder)
        made.append(folder.samples.name)
    if is_first() and not folder.curves.exists():
        write_curves(folder)
        made.append(folder.curves.name)
    return made
