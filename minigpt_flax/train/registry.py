"""The tables that words name rows of, by kind, and how many leading arguments each kind's contract fixes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxopt_mini import CLIPS, OPTIMIZERS, SCHEDULES, WRAPPERS, GradientTransformation, chain
from minigpt_flax.data import CORPORA, TOKENIZERS
from minigpt_flax.runs.loggers import LOGGERS
from minigpt_flax.train.nonfinite import POLICIES
from minigpt_flax.train.precision import DTYPES
from minigpt_flax.train.probes import PROBES


@dataclass(frozen=True)
class Kind:
    """One kind of word.

    Attributes:
      table: name -> function.
      flag: where the word is typed.
      given: number of leading arguments that the run gives: learning rate; peak and total steps; optimizer; text; view;
        folder, config and steps done.
    """

    table: dict[str, Callable]
    flag: str
    given: int


def none() -> GradientTransformation:
    """Gradients pass unclipped."""
    return chain()


KINDS = {
    "optimizer": Kind(OPTIMIZERS, "--opt", 1),
    "schedule": Kind(SCHEDULES, "--schedule", 2),
    "clip": Kind({**CLIPS, none.__name__: none}, "--clip", 0),
    "wrapper": Kind(WRAPPERS, "--wrap", 1),
    "probe": Kind(PROBES, "--probe", 1),
    "policy": Kind(POLICIES, "--on-nan", 0),
    "logger": Kind(LOGGERS, "--log", 3),
    "tokenizer": Kind(TOKENIZERS, "--tokenizer", 1),
    "corpus": Kind(CORPORA, "--data", 0),
    "dtype": Kind(DTYPES, "--dtype", 0),
}


class Offer(NamedTuple):
    """What a run knows, by the keywords of the signatures that take it."""

    layout: Any  # tree of ``ParamLayout``
    mask: Any  # tree of booleans: what decays
    weight_decay_mask: Any  # the same, under another name of Optax's
    learning_rate: Any  # number or schedule of the run's own optimizer
