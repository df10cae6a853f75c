"""The layout of each parameter: its role, its stacked axes, its input and output axes.

An optimizer that works on whole matrices (an orthogonalized update, a norm per output unit) must know which axes form
the matrix and which only stack copies of it. The model can say so; otherwise :func:`infer` reads shapes and layers.
Every optimizer is tested for this property: updating a layer-stacked tree equals updating the layers one by one.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from optax import MaskedNode

from jaxopt_mini._infer import axes_of
from jaxopt_mini.base import Params
from jaxopt_mini.tree import by_name, path_name, per_parameter

ROLES = ("matrix", "embedding", "head", "vector")


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


WHOLE: contextvars.ContextVar[Any] = contextvars.ContextVar("WHOLE", default=None)


@contextlib.contextmanager
def part_of(params: Params) -> Iterator[None]:
    """Within it, :func:`infer` on a masked tree uses all of ``params``, whose other leaves show what is stacked.

    The outermost one counts.
    """
    token = WHOLE.set(params if WHOLE.get() is None else WHOLE.get())
    try:
        yield
    finally:
        WHOLE.reset(token)


def infer(params: Params) -> Any:
    """Infers a layout from shapes and from the classes of layers.

    The names of modules and attributes never count, so that renaming one changes nothing. What counts:

    * Own parameters of layers: ``kernel``, ``embedding``, ``scale``, ``bias`` in Flax Linen and NNX, ``w``, ``b``,
      ``embeddings``, ``offset`` in Haiku, and Equinox's layers by class, whose weights are (out, in).
    * A module is stacked over its first axis if all its arrays share it and one of them is a vector of each layer: a
      scale or a bias with two axes.
    * A kernel has as many output axes as its bias. Without a bias, a kernel (features, heads, head size) is recognized
      by the kernel (heads, head size, features) beside it. Else its last axis is the output.
    * The head is the one matrix (features, tokens) where an embedding has the shape (tokens, features), if no matrix
      takes its outputs.
    * Convolutions with one input channel per filter (depthwise) are vectors.

    Not recognized, so give a layout for them: stacks without a bias or scale, weights (out, in) of other libraries,
    embedding tables that are bare arrays, grouped convolutions, and heads of another size than the table or beside
    another head. Print :func:`describe` to see what was inferred.

    Args:
      params: tree of arrays (or their abstract shapes).

    Returns:
      Tree of the same structure with a :class:`ParamLayout` for every leaf.

    >>> import jax.numpy as jnp
    >>> infer({"blocks": {"kernel": jnp.zeros((12, 8, 32)), "bias": jnp.zeros((12, 32))}})["blocks"]["kernel"]
    ParamLayout(role='matrix', stacked=(0,), inputs=(1,), outputs=(2,))
    """
    whole, names = WHOLE.get(), by_name(params)
    all_names = by_name(whole)
    if any(name not in all_names or all_names[name].shape[1:] != leaf.shape[1:] for name, leaf in names.items()):
        whole, all_names = params, names
    found = dict(zip(all_names, axes_of(whole), strict=True))
    return jax.tree.structure(params).unflatten(ParamLayout(*found[name]) for name in names)


@dataclass(frozen=True)
class Description:
    """A layout as a table, one parameter a row; ``str`` formats it.

    Attributes:
      rows: for each parameter its path, its shape and its layout.
    """

    rows: tuple[tuple[str, tuple[int, ...], ParamLayout], ...]

    def __str__(self) -> str:
        """The table as text."""
        cells: list[tuple[str, ...]] = [("parameter", "shape", "role", "stacked", "inputs", "outputs")]
        for path, shape, entry in self.rows:
            sizes = (tuple(shape[axis] for axis in axes) for axes in (entry.stacked, entry.inputs, entry.outputs))
            cells.append((path, _sizes(shape), entry.role, *map(_sizes, sizes)))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
        return "\n".join(lines)


def _sizes(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "-"


def describe(model: Any, layout: Any | None = None) -> Description:
    """Describes the layout of a model: print it to see the role and the axes of every parameter.

    Args:
      model: parameters, or a model that is a pytree, such as an Equinox or an NNX module; only its floating-point
        arrays count.
      layout: tree of :class:`ParamLayout`; None infers it.

    Raises:
      ValueError: the layout doesn't match the parameters.

    >>> import jax.numpy as jnp
    >>> print(describe({"dense": {"kernel": jnp.zeros((8, 32)), "bias": jnp.zeros(32)}}))
    parameter     shape   role    stacked  inputs  outputs
    dense/bias    32      vector  -        -       32
    dense/kernel  8 x 32  matrix  -        8       32
    """
    params = jax.tree.map(lambda leaf: leaf if _is_parameter(leaf) else None, model)
    entries = by_name(resolve(layout, params))
    return Description(tuple((name, tuple(leaf.shape), entries[name]) for name, leaf in by_name(params).items()))


def _is_parameter(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.inexact)


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
