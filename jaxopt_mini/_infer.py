"""Axes and roles of parameters from their shapes, their siblings, and the parameter names of layer classes.

Only names that a layer class gives its own parameters count (Flax's ``kernel``, ``embedding``, ``scale``, ``bias``;
Haiku's ``w``, ``b``, ``embeddings``, ``offset``), and the class itself for Equinox, whose ``weight`` has several
meanings. The names of modules and attributes, which the user chooses, never count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

KERNELS = ("kernel", "w")
TABLES = ("embedding", "embeddings")
VECTORS = ("bias", "scale", "offset")
BIASES = ("bias", "b")
CONVOLUTIONS = {"Conv", "ConvTranspose"}  # the layers of Equinox, by class
WEIGHTED = CONVOLUTIONS | {"Linear", "Embedding", "GRUCell", "LSTMCell"}
NORMS = {"LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm", "PReLU"}


class Axes(NamedTuple):
    """The fields of a :class:`~jaxopt_mini.ParamLayout`."""

    role: str
    stacked: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """A leaf and its place in the tree.

    Attributes:
      path: the keys from the root to the parameter's own name.
      shape: its shape.
      owner: the node that holds it, for the classes of Equinox.
      stacks: number of leading axes along which layers are stacked.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    owner: Any = None
    stacks: int = 0

    @property
    def name(self) -> str:
        """The parameter's own name in its module."""
        return self.path[-1] if self.path else ""

    @property
    def module(self) -> tuple[str, ...]:
        """The path of its module."""
        return self.path[:-1]

    @property
    def own(self) -> tuple[int, ...]:
        """The shape of one layer."""
        return self.shape[self.stacks :]


def axes_of(tree: Any) -> list[Axes]:
    """The :class:`Axes` of every leaf of a tree, in the order of ``jax.tree.leaves``."""
    parameters = _stacked(list(_parameters(tree, (), None)))
    modules: dict[tuple[str, ...], list[Parameter]] = {}
    for parameter in parameters:
        for path in {parameter.module, parameter.module[:-1]}:
            modules.setdefault(path, []).append(parameter)
    found = [_equinox(p) or _axes(p, modules[p.module], modules[p.module[:-1]]) for p in parameters]
    return _with_heads(parameters, found)


def _parameters(node: Any, path: tuple[str, ...], owner: Any) -> Iterator[Parameter]:
    children = jax.tree.leaves_with_path(node, is_leaf=lambda child: child is not node)
    for keys, child in children:
        if not keys:
            yield Parameter(path, tuple(child.shape), owner)
        elif isinstance(keys[0], jax.tree_util.GetAttrKey) and keys[0].name == "value":
            yield from _parameters(child, path, owner)  # the box around a parameter of NNX or of a partitioned Linen
        else:
            name = jax.tree_util.keystr(keys, simple=True, separator="/")
            yield from _parameters(child, (*path, *name.split("/")), node)


def _stacked(parameters: list[Parameter]) -> list[Parameter]:
    """Counts the axes along which whole layers are stacked, from the outermost module inwards."""
    paths = {p.path[:n] for p in parameters for n in range(len(p.path))}
    for path in sorted(paths, key=len):
        while _is_stack(inside := [p for p in parameters if p.path[: len(path)] == path]):
            members = {p.path for p in inside}
            parameters = [replace(p, stacks=p.stacks + 1) if p.path in members else p for p in parameters]
    return parameters


def _is_stack(parameters: list[Parameter]) -> bool:
    """Whether all arrays of a module share a first axis that cannot be an input: some of them are its vectors."""
    shapes = [p.own for p in parameters]
    if not all(shapes) or len({shape[0] for shape in shapes}) > 1 or max(map(len, shapes)) < 3:
        return False
    if any(len(p.own) < 3 for p in parameters if p.name in KERNELS + TABLES):
        return False
    unnamed = all(shapes[0][0] not in shape[1:] for shape in shapes)
    return any(_is_layer_vector(p, parameters, unnamed) for p in parameters)


def _is_layer_vector(parameter: Parameter, parameters: list[Parameter], unnamed: bool) -> bool:
    """Whether a parameter is a vector per layer: a scale, a bias of one output axis, or under a name of no layer."""
    if parameter.name in VECTORS + BIASES:
        kernels = [p.own for p in parameters if p.module == parameter.module and p.name in KERNELS]
        return len(parameter.own) >= 2 and all(parameter.own != kernel[1:] for kernel in kernels)
    return len(parameter.own) == 2 and unnamed


def _equinox(parameter: Parameter) -> Axes | None:
    """The axes of a parameter of Equinox's own layers, whose weights are (out, in); None for all others."""
    owner, ndim = parameter.owner, len(parameter.shape)
    classes = {cls.__name__ for cls in type(owner).__mro__ if cls.__module__.partition(".")[0] == "equinox"}
    if not classes & (WEIGHTED | NORMS):
        return None
    spatial = owner.num_spatial_dims if classes & CONVOLUTIONS else 0
    weight = parameter.name.startswith("weight") and bool(classes & WEIGHTED)
    of_one = len(owner.shape) if hasattr(owner, "shape") else spatial + (2 if weight else 1)
    axes = tuple(range(ndim))
    stacked, first, others = axes[: max(0, ndim - of_one)], axes[-of_one:][:1], axes[-of_one:][1:]
    if "Embedding" in classes:
        return Axes("embedding", stacked, first, others)
    if weight and not (spatial and parameter.shape[others[0]] == 1):  # or a depthwise convolution
        return Axes("matrix", stacked, others, first)
    return Axes("vector", stacked, (), first + others)


def _axes(parameter: Parameter, module: list[Parameter], parent: list[Parameter]) -> Axes:
    """The axes of a parameter in Flax's, NNX's and Haiku's order, outputs last."""
    shape, stacks = parameter.own, parameter.stacks
    stacked, axes = tuple(range(stacks)), tuple(range(stacks, stacks + len(shape)))
    siblings = {p.name: p.own for p in module if p.module == parameter.module}
    if len(shape) < 2 or parameter.name in VECTORS or parameter.name == "b" and "w" in siblings:
        return Axes("vector", stacked, (), axes)
    if parameter.name in TABLES:
        return Axes("embedding", stacked, axes[:-1], axes[-1:])
    outputs = _number_of_outputs(parameter, siblings, parent)
    if outputs == 1 and len(shape) > 2 and shape[-2] == 1:
        return Axes("vector", stacked, (), axes)  # a depthwise convolution: each channel has its own filter
    return Axes("matrix", stacked, axes[:-outputs], axes[-outputs:])


def _number_of_outputs(parameter: Parameter, siblings: dict[str, tuple[int, ...]], parent: list[Parameter]) -> int:
    bias = next((siblings[name] for name in BIASES if name in siblings), None)
    if bias is None:
        return 2 if _is_projection_to_heads(parameter, parent) else 1
    return len(bias) if 1 < len(bias) < len(parameter.own) and parameter.own[-len(bias) :] == bias else 1


def _is_projection_to_heads(parameter: Parameter, parent: list[Parameter]) -> bool:
    """Whether a kernel (features, heads, head size) has a sibling (heads, head size, features) that takes its outputs.

    Keys and values may have fewer heads than the queries that the sibling fits.
    """
    kernels = [p.own for p in parent if p.name == parameter.name and len(p.own) == 3]
    into = [k for k in kernels if any(k[1:] == out[:2] for out in kernels)]
    return len(parameter.own) == 3 and any((k[0], k[2]) == (parameter.own[0], parameter.own[2]) for k in into)


def _with_heads(parameters: list[Parameter], found: list[Axes]) -> list[Axes]:
    """Turns the one matrix (features, tokens) into the head, if there is a table (tokens, features).

    Its outputs are the inputs of no other matrix, unlike those of an MLP as wide as a table of positions is long.
    """

    def fans(parameter, axes):
        return tuple(math.prod(parameter.shape[axis] for axis in side) for side in (axes.inputs, axes.outputs))

    sizes = [fans(parameter, axes) for parameter, axes in zip(parameters, found, strict=True)]
    tables = {size[::-1] for size, axes in zip(sizes, found, strict=True) if axes.role == "embedding"}
    inputs = {size[0] for size, axes in zip(sizes, found, strict=True) if axes.role == "matrix"}
    fitting = Counter(size for size, axes in zip(sizes, found, strict=True) if axes.role == "matrix" and size in tables)

    def is_head(size, axes):
        return axes.role == "matrix" and not axes.stacked and fitting[size] == 1 and size[1] not in inputs

    return [
        axes._replace(role="head") if is_head(size, axes) else axes for size, axes in zip(sizes, found, strict=True)
    ]
