"""Open a trained run: its model from the folder alone, or the whole run with its data."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
from optax import GradientTransformation

from minigpt_flax.data import Tokenizer, load_tokenizer
from minigpt_flax.data.sources import SourceNotFound
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run, build, make_setup
from minigpt_flax.train.checkpoint import Checkpoints
from minigpt_flax.train.config.run_config import RunConfig, absolute, changed, with_trust
from minigpt_flax.train.config.stored import read_config
from minigpt_flax.train.dataset import Dataset, WrongData, load_dataset
from minigpt_flax.train.optimizer import CUSTOM
from minigpt_flax.train.sample import TEMPERATURE, sample
from minigpt_flax.train.state import TrainState


class TrainedModel(NamedTuple):
    """The model of a run's checkpoint.

    Attributes:
      model: sizes and parts.
      params: to evaluate and sample with: an average, if the optimizer keeps one.
      config: of the run.
      tokenizer: of the run.
      step: of the checkpoint.
      folder: of the run.
    """

    model: ModelConfig
    params: Any
    config: RunConfig
    tokenizer: Tokenizer
    step: int
    folder: RunFolder

    def generate(
        self,
        prompt: str | None = None,
        *,
        max_tokens: int = 256,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        special_tokens: bool = False,
        seed: int = 0,
    ) -> str:
        """Continues a prompt; returns the text with its prompt.

        Args:
          prompt: None begins after an end-of-text token, or on a new line if the tokenizer has none.
          max_tokens: tokens to sample.
          temperature: 0 takes the likeliest token; 1 is the model's own distribution.
          top_k: sample from the k likeliest tokens only.
          top_p: sample from the likeliest tokens that hold this share of the probability.
          min_p: sample only tokens with at least this share of the likeliest token's probability.
          repetition_penalty: above 1, tokens that occurred become less likely.
          stop: the text ends before the first of these.
          ignore_eos: continue after an end-of-text token, which otherwise ends the text.
          special_tokens: read ``<|endoftext|>`` in the prompt as the token, not as text.
          seed: of the draws.

        Raises:
          UserError: the tokenizer can't encode the prompt, or a number is out of range.
        """
        (text,) = sample(
            self.model,
            self.params,
            self.tokenizer,
            prompt,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stops=stop,
            ignore_eos=ignore_eos,
            special_tokens=special_tokens,
            seed=seed,
        )
        return text

    def evaluate(self, data: Sequence[str] | str | None = None, split: str | None = None) -> dict[str, Any]:
        """Measures the loss on a whole split, as ``minigpt_flax eval`` does.

        Args:
          data: one or several of corpus, file, folder, pattern and ``hf:NAME``; None takes the run's own.
          split: ``validation``, ``training`` or ``all``; None takes the validation split of the run's own data, and
            all of other data.

        Returns:
          ``loss`` and ``loss_sem`` (nats per token), ``perplexity``, ``tokens``, bits per character and byte, and
          ``loss_by_position``.

        Raises:
          UserError: the data can't be read or isn't the model's, or there is no such split.
        """
        from minigpt_flax.train.evaluate_split import evaluate_split  # which opens runs itself

        return evaluate_split(self, data, split)


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


def restore(path: Path, step: str = "best") -> TrainedModel:
    """Reads the model of a checkpoint; executes no code that the folder names.

    Args:
      path: the run's folder.
      step: a number of steps, or "last", or "best" (lowest validation loss; the last where there was no validation).

    Raises:
      UserError: no such run or checkpoint, or it can't be read.
    """
    folder, config, tokenizer = settings_of(path)
    with open_checkpoints(path) as checkpoints:
        number = _choose(checkpoints, step)
        if is_foreign(config):
            setup = make_setup(changed(config, opt="sgd", wrap=(), group=(), probe=()), tokenizer)
            params = checkpoints.read_params(number, setup.shapes)
        else:
            setup = make_setup(config, tokenizer)
            params = checkpoints.read(number, jax.eval_shape(setup.init)).evaluation_params
    return TrainedModel(setup.model, params, config, tokenizer, number, folder)


def is_foreign(config: RunConfig) -> bool:
    """Whether the run's optimizer is code from outside of the project, so that its state can't be interpreted."""
    return any(spec.is_external or spec == CUSTOM for spec in (config.opt, *(group.spec for group in config.group)))


def reopen(
    path: Path,
    step: str = "last",
    *,
    data: Sequence[str] | None = None,
    trust: bool = False,
    optimizer: GradientTransformation | None = None,
    dataset: Dataset | None = None,
) -> tuple[Run, TrainState]:
    """Builds a run again, its data included, and reads a checkpoint of it, to be studied.

    All on one device, however many it was trained on.

    Args:
      path: the run's folder.
      step: of the checkpoint, as for :func:`restore`.
      data: where the run's data is now; None looks where it was.
      trust: execute code that the folder names.
      optimizer: of a run whose optimizer was passed as an object.
      dataset: of a run whose data was passed as an object.

    Raises:
      UserError: no such run or checkpoint, it can't be read, or the data is missing or has changed.
    """
    folder, config, tokenizer = settings_of(path)
    config = dataclasses.replace(with_trust(config, trust), mesh="data=1", parallel="jit")
    if data is not None:
        config = changed(config, data=tuple(map(absolute, data)))
    run = build(config, optimizer=optimizer, data=dataset or load_run_data(folder, config, tokenizer))
    with open_checkpoints(path) as checkpoints:
        return run, checkpoints.read(_choose(checkpoints, step), run.state)


def load_run_data(folder: RunFolder, config: RunConfig, tokenizer: Tokenizer) -> Dataset:
    """Loads the data that a run was trained on.

    Raises:
      UserError: it is missing or has changed; names the run, the data and its hash.
    """
    expected, where = folder.data_hash(), "give its new path with --data PATH"
    try:
        return load_dataset(config, tokenizer=tokenizer, data_hash=expected)
    except WrongData as error:
        raise UserError(f"{show(folder.path)}: {error}; restore it, or {where}") from error
    except UserError as error:
        reason = "is missing" if isinstance(error.__cause__, SourceNotFound) else f"can't be read ({error})"
        raise UserError(
            f"{show(folder.path)} was trained on {', '.join(config.data)} with the SHA-256 {expected}, which {reason}: "
            f"{where}"
        ) from error


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
