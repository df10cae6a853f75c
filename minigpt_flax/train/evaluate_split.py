"""Evaluate a trained model on a whole split: loss, perplexity, bits, and the loss by position in the context."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minigpt_flax.data import bits_per_unit, evaluation_windows, text_size
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.train.build import EVALUATION_TOKENS
from minigpt_flax.train.config.run_config import absolute
from minigpt_flax.train.dataset import Dataset, chained, load_dataset
from minigpt_flax.train.evaluate import perplexity
from minigpt_flax.train.loss_by_position import losses_of
from minigpt_flax.train.restore import TrainedModel, load_run_data

SPLITS = ("validation", "training", "all")
SIZES = ("tokens", "characters", "bytes")
Follow = Callable[[Iterable[Any], int], Iterable[Any]]
"""``(batches, number of batches) -> the same batches``, which shows the progress."""


def evaluate_split(
    model: TrainedModel,
    source: Sequence[str] | str | None = None,
    split: str | None = None,
    follow: Follow = lambda batches, count: batches,
) -> dict[str, Any]:
    """Evaluates a model.

    Args:
      model: of a run's checkpoint.
      source: the data; None takes the run's own. A copy of that elsewhere counts as the run's own.
      split: one of ``SPLITS``; None takes the validation split of the run's own data, and all of other data.
      follow: shows the progress.

    Returns:
      What was evaluated, on which data, and the numbers; losses in nats per token.

    Raises:
      UserError: the data can't be read or isn't the model's, or there is no such split.
    """
    check_split(split)
    config = model.config if split in (None, "validation") else dataclasses.replace(model.config, val_tokens=None)
    data = load_run_data(model.folder, config, model.tokenizer) if source is None else _other(model, source)
    own = data.sha256 == model.folder.data_hash()
    part = split or ("validation" if own else "all")
    ways = {"training": lambda one: one.train, "validation": lambda one: one.val}
    ways["all"] = lambda one: chained(one.train, one.val)
    each = {one.name: _of_tokens(model, ways[part](one), follow) for one in data.parts}
    about = {"run": show(model.folder.path), "step": model.step, "data": data.name, "sha256": data.sha256}
    return about | {"split": part} | mixed(each, [float(weight) for weight in data.weights])


def check_split(split: str | None) -> None:
    """Refuses an unknown split.

    Raises:
      UserError: lists the splits.
    """
    if split is not None and split not in SPLITS:
        raise UserError(f"no split is called {split!r}{nearest(split, SPLITS)}; there are: {', '.join(SPLITS)}")


def _other(model: TrainedModel, source: Sequence[str] | str) -> Dataset:
    """Other data, or a copy of the run's own; several sources are mixed as in training if they are as many."""
    sources = tuple(map(absolute, [source] if isinstance(source, str) else source))
    mix = model.config.mix if len(sources) == len(model.config.data) else None
    config = dataclasses.replace(model.config, data=sources, mix=mix, val_tokens=None)
    return load_dataset(config, tokenizer=model.tokenizer)


def _of_tokens(run: TrainedModel, tokens: Any, follow: Follow) -> dict[str, Any]:
    """The numbers of one source."""
    batch = max(1, EVALUATION_TOKENS // run.model.context)
    windows = evaluation_windows(tokens, run.model.context, batch)
    count = -(-(len(tokens) - 1) // (batch * run.model.context))
    losses = losses_of(run.model, run.params, follow(windows, count))
    found: dict[str, Any] = {"tokens": len(tokens), "loss": losses.mean, "loss_sem": losses.error}
    size = text_size(run.tokenizer, tokens)
    found |= {} if size is None else size._asdict()
    found |= bits_per_unit(losses.mean, len(tokens), size)
    return found | {"loss_by_position": losses.by_position, "loss_by_position_sem": losses.errors}


def mixed(each: Mapping[str, Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """The numbers of several sources as one: the expected loss of the run's batches.

    Args:
      each: numbers by source.
      weights: shares of the sources in the batches; they sum to 1.

    Returns:
      Sizes are sums, losses and bits means by these weights; for several sources also the loss of each.
    """
    parts = list(each.values())
    weighted = lambda name: [weight * one[name] for weight, one in zip(weights, parts, strict=True)]
    mean = lambda name: np.sum(weighted(name), axis=0)
    error = lambda name: np.sqrt(np.sum(np.square(weighted(name)), axis=0))
    found: dict[str, Any] = {name: sum(one[name] for one in parts) for name in SIZES if name in parts[0]}
    found |= {"loss": float(mean("loss")), "loss_sem": float(error("loss_sem")), "perplexity": perplexity(mean("loss"))}
    bits = [name for name in ("bits_per_character", "bits_per_byte") if all(name in one for one in parts)]
    found |= {name: float(mean(name)) for name in bits}
    if len(parts) > 1:
        shares = zip(each.items(), weights, strict=True)
        found["sources"] = {name: {"loss": one["loss"], "share": share} for (name, one), share in shares}
    return found | {
        "loss_by_position": [_number(value) for value in mean("loss_by_position")],
        "loss_by_position_sem": [_number(value) for value in error("loss_by_position_sem")],
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
