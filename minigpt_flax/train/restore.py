"""Open a trained run: only its model, or the whole run with its data."""

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
from minigpt_flax.train.carry_over import forms
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
      model: model configuration.
      params: parameters for evaluation and sampling; an average if the optimizer maintains one.
      config: configuration of the run.
      tokenizer: tokenizer of the run.
      step: step of the checkpoint.
      folder: folder of the run.
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
        """Generate text.

        Args:
          prompt: beginning of the text; None begins after an end-of-text token, or after a newline if the tokenizer
            has none.
          max_tokens: maximum number of tokens to sample.
          temperature: divisor of the logits; 0 always takes the most likely token.
          top_k: sample only from the k most likely tokens.
          top_p: sample only from the most likely tokens whose probabilities add up to this.
          min_p: sample only tokens with at least this fraction of the highest probability.
          repetition_penalty: above 1, tokens that already occur become less likely.
          stop: strings; the text ends before the first that occurs.
          ignore_eos: continue after an end-of-text token, which otherwise ends the text.
          special_tokens: read ``<|endoftext|>`` in the prompt as the token, not as text.
          seed: random seed.

        Returns:
          The prompt and the generated text.

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
        """Evaluate the loss on a whole split, as ``minigpt_flax eval`` does.

        Args:
          data: one or several sources (corpus, file, folder, glob pattern or ``hf:NAME``); None means the run's own.
          split: ``validation``, ``training`` or ``all``; None means the validation split of the run's own data, and
            all of any other data.

        Returns:
          ``loss`` and ``loss_sem`` (nats per token), ``perplexity``, ``tokens``, bits per character and byte, and
          ``loss_by_position``.

        Raises:
          UserError: the data can't be read, does not fit the model, or has no such split.
        """
        from minigpt_flax.train.evaluate_split import evaluate_split  # which opens runs itself

        return evaluate_split(self, data, split)


def settings_of(path: Path) -> tuple[RunFolder, RunConfig, Tokenizer]:
    """Read and check the folder, configuration and tokenizer of a run.

    Raises:
      UserError: the folder is not a run, or one of its files is damaged or was replaced.
    """
    folder = RunFolder(path)
    folder.require()
    config = read_config(folder.config).config
    folder.check_tokenizer()
    return folder, config, load_tokenizer(folder.path)


def restore(path: Path, step: str = "best") -> TrainedModel:
    """Read the model of a checkpoint, without executing any code that the folder names.

    Args:
      path: the run's folder.
      step: step of the checkpoint, "last", or "best" (lowest validation loss; the last without validations).

    Raises:
      UserError: the run or checkpoint does not exist, or can't be read.
    """
    folder, config, tokenizer = settings_of(path)
    if not is_foreign(config):
        return restore_state(path, step)[0]
    with open_checkpoints(path) as checkpoints, chosen_checkpoint(checkpoints, step) as number:
        setup = make_setup(changed(config, opt="sgd", wrap=(), group=(), probe=()), tokenizer)
        params = checkpoints.read_params(number, setup.shapes)
    return TrainedModel(setup.model, params, config, tokenizer, number, folder)


def restore_state(path: Path, step: str = "best") -> tuple[TrainedModel, TrainState]:
    """Read a checkpoint with the state of its optimizer, as :func:`restore` does.

    Raises:
      UserError: the run or checkpoint does not exist, or can't be read.
    """
    folder, config, tokenizer = settings_of(path)
    with open_checkpoints(path) as checkpoints, chosen_checkpoint(checkpoints, step) as number:
        setup = make_setup(config, tokenizer)
        checkpoints.forms = lambda: forms(setup, folder)
        state = checkpoints.read(number, jax.eval_shape(setup.init))
    return TrainedModel(setup.model, state.evaluation_params, config, tokenizer, number, folder), state


def is_foreign(config: RunConfig) -> bool:
    """Whether the run's optimizer is code outside the project, so that its state can't be interpreted."""
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
    """Rebuild a run with its data on one device, and read a checkpoint.

    Args:
      path: the run's folder.
      step: step of the checkpoint, as for :func:`restore`.
      data: new paths of the run's data; None uses the recorded ones.
      trust: allow executing code that the folder names.
      optimizer: the optimizer, if it was passed to the run as an object.
      dataset: the data, if it was passed to the run as an object.

    Raises:
      UserError: the run or checkpoint does not exist or can't be read, or the data is missing or has changed.
    """
    folder, config, tokenizer = settings_of(path)
    config = dataclasses.replace(with_trust(config, trust), mesh="data=1", parallel="jit")
    if data is not None:
        config = changed(config, data=tuple(map(absolute, data)))
    run = build(config, optimizer=optimizer, data=dataset or load_run_data(folder, config, tokenizer))
    with open_checkpoints(path) as checkpoints, chosen_checkpoint(checkpoints, step) as number:
        checkpoints.forms = lambda: forms(run, folder)
        return run, checkpoints.read(number, run.state)


def load_run_data(folder: RunFolder, config: RunConfig, tokenizer: Tokenizer) -> Dataset:
    """Load the data that a run was trained on.

    Raises:
      UserError: the data is missing or has changed.
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
    """Open the checkpoints of a run for reading, with their recorded validation losses."""
    folder = RunFolder(path)
    with Checkpoints(folder.checkpoints, keep=sys.maxsize) as checkpoints:
        checkpoints.scores = folder.scores()
        yield checkpoints


@contextmanager
def chosen_checkpoint(checkpoints: Checkpoints, step: str) -> Iterator[int]:
    """The number of a checkpoint, during which an error about it names the others."""
    number = _choose(checkpoints, step)
    try:
        yield number
    except UserError as error:
        others = ", ".join(str(other) for other in checkpoints.steps() if other != number)
        if not others:
            raise
        raise UserError(f"{error}; other checkpoints, for --step: {others}") from error


def _choose(checkpoints: Checkpoints, step: str) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{show(checkpoints.folder)} holds no checkpoint yet")
    best = checkpoints.best()
    words = {"last": steps[-1], "best": steps[-1] if best is None else best, **{str(s): s for s in steps}}
    if step not in words:
        raise UserError(f"no checkpoint of step {step!r}; there are: {', '.join(words)}")
    return words[step]
