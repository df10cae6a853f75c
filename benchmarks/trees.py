"""The parameters that updates are timed on: those of the model, with random numbers in them."""

from __future__ import annotations

import functools
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
      name: what it is called.
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


def model_tree(name: str) -> Tree:
    """The parameters of the model of that name, stacked over layers."""
    shapes = jax.eval_shape(lambda: gpt.init_params(MODELS[name], jax.random.key(0)))
    layout = jax.tree.map(lambda a: ParamLayout(a.role, a.stacked, a.inputs, a.outputs), model_layout(shapes))
    return Tree(name, shapes, layout)


def apart(entry: ParamLayout) -> ParamLayout:
    """The layout of one layer of a stack."""
    kept = sorted(entry.inputs + entry.outputs)
    return ParamLayout(entry.role, (), *(tuple(map(kept.index, axes)) for axes in (entry.inputs, entry.outputs)))


def layers(leaf: np.ndarray, entry: ParamLayout) -> list[np.ndarray]:
    """The layers that a leaf is a stack of; a leaf that is none alone."""
    front = np.moveaxis(leaf, entry.stacked, range(len(entry.stacked)))
    return list(front.reshape(-1, *front.shape[len(entry.stacked) :]))


def layers_tree(name: str) -> Tree:
    """The same with an array for each layer."""
    whole = model_tree(name)

    def shapes(leaf, entry):
        shape = tuple(leaf.shape[axis] for axis in sorted(entry.inputs + entry.outputs))
        return [jax.ShapeDtypeStruct(shape, leaf.dtype)] * (leaf.size // int(np.prod(shape)))

    cut = jax.tree.map(shapes, whole.shapes, whole.layout)
    return Tree(
        f"{name}, layers apart", cut, jax.tree.map(lambda e, leaves: [apart(e)] * len(leaves), whole.layout, cut)
    )


TREES = {name: functools.partial(model_tree, name) for name in MODELS}
TREES |= {f"{name}_layers": functools.partial(layers_tree, name) for name in MODELS}
