"""What each parameter is: its role, the axes it is stacked over, its input and output axes.

A rule that treats a matrix as one thing (an orthogonalised update, a norm per output unit) must know which axes form
the matrix and which only stack copies of it. The model says so; without its word, :func:`infer` reads names and shapes.
The law that every optimizer keeps: updating a layer-stacked tree equals updating the layers one by one and stacking.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
from optax import MaskedNode

from jaxopt_mini.base import Params
from jaxopt_mini.tree import path_name

ROLES = ("matrix", "embedding", "head", "vector")
EMBEDDING_NAMES = ("embed", "wte", "wpe")
HEAD_NAMES = ("head", "unembed", "logits")
STACK_NAMES = ("blocks", "layers", "stack")


@dataclass(frozen=True)
class ParamLayout:
    """Role and axes of one parameter; a leaf, not a node, of the layout tree.

    Attributes:
      role: one of ``ROLES``: "matrix" (hidden weight), "embedding", "head" (to the logits), "vector" (bias, scale).
      stacked: axes along which independent parameters are stacked.
      inputs: axes that a forward pass sums over (fan-in).
      outputs: axes that it produces (fan-out).
    """

    role: str
    stacked: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks role and axes."""
        if self.role not in ROLES:
            raise ValueError(f"role {self.role!r} is unknown; the roles are {', '.join(ROLES)}")
        axes = (*self.stacked, *self.inputs, *self.outputs)
        if sorted(axes) != list(range(len(axes))):
            raise ValueError(
                f"the axes of a parameter must be named once each, got stacked={self.stacked}, "
                f"inputs={self.inputs}, outputs={self.outputs}"
            )

    @property
    def ndim(self) -> int:
        """Number of axes described."""
        return len(self.stacked) + len(self.inputs) + len(self.outputs)

    def fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(fan-in, fan-out) of one copy.

        >>> ParamLayout("matrix", (0,), (1,), (2, 3)).fans((12, 64, 4, 16))
        (64, 64)
        """
        return (
            math.prod(shape[axis] for axis in self.inputs),
            math.prod(shape[axis] for axis in self.outputs),
        )


def infer(params: Params) -> Any:
    """Reads a layout off names and shapes.

    A leaf under a key that is one of ``STACK_NAMES`` is stacked over its first axis, unless the next key is a number
    (``layers/0/kernel`` is one of a list of layers). Of the axes left: up to one is a
    vector; keys that contain one of ``EMBEDDING_NAMES`` are embeddings (rows, features), of ``HEAD_NAMES`` heads; the
    rest are matrices with the last axis as output, as Flax and Haiku keep kernels.

    Args:
      params: tree of arrays (or their abstract shapes).

    Returns:
      Tree of the same structure with a :class:`ParamLayout` for every leaf.

    >>> import jax.numpy as jnp
    >>> infer({"blocks": {"kernel": jnp.zeros((12, 8, 32))}})["blocks"]["kernel"]
    ParamLayout(role='matrix', stacked=(0,), inputs=(1,), outputs=(2,))
    """

    def one(path, leaf):
        keys = path_name(path).lower().split("/")
        stack = any(key in STACK_NAMES and not below.isdigit() for key, below in pairwise(keys))
        stacked = (0,) if leaf.ndim and stack else ()
        axes = tuple(range(len(stacked), leaf.ndim))
        if len(axes) <= 1:
            return ParamLayout("vector", stacked, (), axes)
        return ParamLayout(_role(keys), stacked, axes[:-1], axes[-1:])

    return jax.tree.map_with_path(one, params)


def _role(keys: list[str]) -> str:
    for role, names in (("embedding", EMBEDDING_NAMES), ("head", HEAD_NAMES)):
        if any(name in key for key in keys for name in names):
            return role
    return "matrix"


def resolve(layout: Any | None, params: Params) -> Any:
    """Returns ``layout``, or the inferred one, after checking it against the tree.

    Leaves that a mask has taken out (``optax.MaskedNode``, or None) are taken out of the layout too.

    Raises:
      ValueError: a leaf of the layout doesn't describe its parameter; the message names the leaf.
    """
    if layout is None:
        return infer(params)

    def absent(leaf):
        return leaf is None or isinstance(leaf, MaskedNode)

    def check(path, leaf, entry):
        if absent(leaf):
            return leaf
        if not isinstance(entry, ParamLayout) or entry.ndim != leaf.ndim:
            raise ValueError(
                f"the layout of {path_name(path)} is {entry}, but the parameter has shape {leaf.shape}: "
                "name each of its axes once"
            )
        return entry

    try:
        jax.tree.map(lambda leaf, entry: None, params, layout, is_leaf=absent)
    except ValueError as error:
        difference = str(error).splitlines()[0]
        raise ValueError(
            f"the layout isn't a tree like the parameters: {difference}; give each parameter an entry"
        ) from error
    return jax.tree.map_with_path(check, params, layout, is_leaf=absent)


def per_copy(function: Callable[..., jax.Array], entry: ParamLayout) -> Callable[..., jax.Array]:
    """Maps ``function`` over the stacked axes, so that it sees one copy at a time.

    ``function`` takes and returns arrays that carry the stacked axes at the same places.
    """
    for axis in sorted(entry.stacked):
        function = jax.vmap(function, in_axes=axis, out_axes=axis)
    return function


def roles(layout: Any) -> Any:
    """Tree of role names."""
    return jax.tree.map(lambda entry: entry.role, layout)
