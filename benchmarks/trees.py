"""The parameters that updates are timed on: those of the model, with random numbers in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxopt_mini import ParamLayout
from minigpt_flax.model import gpt
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.layout import layout as model_layout

MODELS = {
    "nano": ModelConfig(vocab_size=103),
    "gpt2": ModelConfig(vocab_size=50257, context=1024, layers=12, heads=12, width=768, bias=True),
}


@dataclass(frozen=True)
class Tree:
    """Parameters without their numbers.

    Attributes:
      name: key of ``MODELS``.
      shapes: abstract arrays.
      layout: a ``ParamLayout`` for each.
    """

    name: str
    shapes: Any
    layout: Any

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes))

    def __str__(self) -> str:
        """Name and size."""
        return f"{self.name} ({self.size / 1e6:.1f} M parameters in {len(jax.tree.leaves(self.shapes))} leaves)"

    def filled(self, seed: int, stddev: float) -> Any:
        """Normal float32 numbers, in NumPy arrays."""
        generator = np.random.default_rng(seed)

        def fill(leaf):
            return np.float32(stddev) * generator.standard_normal(leaf.shape, np.float32)

        return jax.tree.map(fill, self.shapes)


def tree(name: str) -> Tree:
    """The parameters of the model of that name."""
    shapes = jax.eval_shape(lambda: gpt.init_params(MODELS[name], jax.random.key(0)))
    return Tree(name, shapes, jax.tree.map(lambda axes: ParamLayout(**dataclasses.asdict(axes)), model_layout(shapes)))
