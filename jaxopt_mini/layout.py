"""The layout of each parameter: its role, its stacked axes, its input and output axes.

An optimizer that works on whole matrices (an orthogonalized update, a norm per output unit) must know which axes form
the matrix and which only stack copies of it. The model can say so; otherwise :func:`infer` reads names and shapes.
Every optimizer is tested for this property: updating a layer-stacked tree equals updating the layers one by one.
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
from jaxopt_mini.tree import path_name, per_parameter

ROLES = ("matrix", "embedding", "head", "vector")
EMBEDDING_NAMES = ("embed", "wte", "wpe")
HEAD_NAMES = ("head", "unembed", "logits")
STACK_NAMES = ("blocks", "layers", "stack")


@dataclass(frozen=True)
class ParamLayout:
    """Role and axes of one parameter; a leaf of the layout tree.

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
            raise ValueError(f"unknown role {self.role!r}: choose from {', '.join(ROLES)}")
        axes = (*self.stacked, *self.inputs, *self.outputs)
        if sorted(axes) != list(range(len(axes))):
            raise ValueError(
                f"each axis of a parameter must be named exactly once, got stacked={self.stacked}, "
                f"inputs={self.inputs}, outputs={self.outputs}"
            )

    @property
    def ndim(self) -> int:
        """Number of axes described."""
        return len(self.stacked) + len(self.inputs) + len(self.outputs)

    def fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(fan-in, fan-out) of one stacked copy.

        >>> ParamLayout("matrix", (0,), (1,), (2, 3)).fans((12, 64, 4, 16))
        (64, 64)
        """
        return (
            math.prod(shape[axis] for axis in self.inputs),
            math.prod(shape[axis] for axis in self.outputs),
        )


def infer(params: Params) -> Any:
    """Infers a layout from names and shapes.

    A leaf under a key in ``STACK_NAMES`` is stacked over its first axis, unless the next key is a number
    (``layers/0/kernel`` is one of a list of layers). With at most one axis left, it is a vector. Otherwise it is an
    embedding (rows, features) if a key contains one of ``EMBEDDING_NAMES``, a head if one contains one of
    ``HEAD_NAMES``, and else a matrix whose last axis is the output, as in Flax and Haiku kernels.

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


def resolve(layout: Any | Callable[[Params], Any] | None, params: Params) -> Any:
    """Returns ``layout``, its result on the parameters, or the inferred one, after checking it against the parameters.

    Masked leaves (``optax.MaskedNode`` or None) are masked in the layout too.

    Raises:
      ValueError: a leaf of the layout doesn't match its parameter; the message names the leaf.
    """
    if layout is None:
        return infer(params)
    layout = per_parameter(layout, params)

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
            f"the layout's tree differs from the parameters': {difference}; give each parameter an entry"
        ) from error
    return jax.tree.map_with_path(check, params, layout, is_leaf=absent)


def per_copy(function: Callable[..., jax.Array], entry: ParamLayout) -> Callable[..., jax.Array]:
    """Maps ``function`` over the stacked axes, so that it sees one copy at a time.

    The mapped function takes and returns arrays with the stacked axes at the same positions.
    """
    for axis in sorted(entry.stacked):
        function = jax.vmap(function, in_axes=axis, out_axes=axis)
    return function


def roles(layout: Any) -> Any:
    """The tree of role names."""
    return jax.tree.map(lambda entry: entry.role, layout)
