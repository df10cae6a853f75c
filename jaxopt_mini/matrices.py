"""Parameters as matrices: which leaves are matrices, how to reshape them, and how to batch equal shapes.

A function of one (inputs, outputs) matrix is applied to a whole tree at once: matrices of equal shape are stacked,
across leaves and across the stacked axes of each leaf, and the function is vmapped over the stack. Sixty small products
become one large one, and the compiled program does not grow with the number of layers. If a mesh of several devices is
set (``jax.set_mesh``), the stack is divided among them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from optax import MaskedNode

from jaxopt_mini.base import GradientTransformation, Params
from jaxopt_mini.combine import partition
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.linalg import multiply
from jaxopt_mini.tree import per_parameter, wide_dtype, widen

Tree = Any
MATRIX = ParamLayout("matrix", (), (0,), (1,))


def resolve_layout(layout: Tree | Callable[[Params], Tree] | None, params: Params) -> Tree:
    """Returns a :class:`~jaxopt_mini.ParamLayout` for every leaf: ``layout``, its result, or the inferred one.

    Raises:
      ValueError: a leaf of the layout doesn't match its parameter.
    """
    return resolve(layout, params)


def by_rank(params: Params) -> Tree:
    """Optax's default layout: every leaf with two axes is an (inputs, outputs) matrix, whatever its role."""
    return jax.tree.map(lambda leaf: MATRIX if leaf.ndim == 2 else _vector(leaf.ndim), params)


def _vector(ndim: int) -> ParamLayout:
    return ParamLayout("vector", (), (), tuple(range(ndim)))


def by_dimension_numbers(numbers: Tree | Callable[[Params], Tree], params: Params) -> Tree:
    """Converts Optax's ``MuonDimensionNumbers`` or ``GaLoreDimensionNumbers`` to a layout.

    Args:
      numbers: tree of dimension numbers, a prefix of the parameters' tree, or a function of the parameters that returns
        one; None marks a leaf that is not a matrix. An entry for several leaves is for those with at least two axes.
      params: tree of arrays.

    Returns:
      A layout; axes that are neither reduction nor output axes are stacked.
    """

    def positive(axes, ndim):
        return tuple(axis % ndim for axis in ((axes,) if isinstance(axes, int) else axes))

    def one(leaf, entry, alone):
        if isinstance(leaf, MaskedNode):
            return leaf
        if entry is None or leaf.ndim < 2 and not alone:
            return _vector(leaf.ndim)
        if leaf.ndim < 2:
            raise ValueError(
                f"dimension numbers {entry} are for matrices, got a leaf of shape {leaf.shape}: give it None"
            )
        inputs, outputs = (positive(axes, leaf.ndim) for axes in entry)
        stacked = tuple(sorted(set(range(leaf.ndim)) - {*inputs, *outputs}))
        return ParamLayout("matrix", stacked, inputs, outputs)

    def subtree(entry, params):
        alone = jax.tree_util.all_leaves([params], is_leaf=_is_masked)
        return jax.tree.map(lambda leaf: one(leaf, entry, alone), params, is_leaf=_is_masked)

    numbers = per_parameter(numbers, params)
    return jax.tree.map(subtree, numbers, params, is_leaf=lambda node: node is None or hasattr(node, "reduction_axis"))


def _is_masked(node: Any) -> bool:
    return isinstance(node, MaskedNode)


def layout_or_dimension_numbers(
    layout: Tree | None, numbers: Tree | Callable[[Params], Tree] | None
) -> Tree | Callable[[Params], Tree]:
    """A layout, or Optax's dimension numbers in its place, or what has two axes.

    Raises:
      ValueError: both are given.
    """
    if numbers is None:
        return by_rank if layout is None else layout
    if layout is not None:
        raise ValueError("got both a layout and dimension numbers: give one of them")
    return lambda params: by_dimension_numbers(numbers, params)


def matrices_and_rest(
    transforms: Mapping[Hashable, GradientTransformation], layout: Tree | Callable[[Params], Tree] | None
) -> GradientTransformation:
    """Applies the first of two transformations to hidden weights, the second to embeddings, head and vectors."""
    matrix, rest = transforms

    def labels(params):
        return jax.tree.map(lambda entry: matrix if entry.role == "matrix" else rest, resolve_layout(layout, params))

    return partition(transforms, labels)


def as_matrices(tree: Tree, layout: Tree) -> Tree:
    """Reshapes every leaf to ``(*stacked, inputs, outputs)``, merging several input or output axes into one.

    >>> leaf, entry = jnp.zeros((3, 2, 8, 4)), ParamLayout("matrix", (1,), (2,), (0, 3))
    >>> as_matrices(leaf, entry).shape
    (2, 8, 12)
    """

    def one(leaf, entry):
        stacked = [leaf.shape[axis] for axis in entry.stacked]
        return leaf.transpose(_order(entry)).reshape(*stacked, *entry.fans(leaf.shape))

    return jax.tree.map(one, tree, layout)


def wide_matrices(layout: Tree, *trees: Tree) -> list[Tree]:
    """:func:`as_matrices` of each tree, in at least float32."""
    return [jax.tree.map(widen, as_matrices(tree, layout)) for tree in trees]


def matrix_shapes(tree: Tree, layout: Tree) -> Tree:
    """The abstract arrays of :func:`as_matrices`; ``tree`` may be abstract."""
    return jax.eval_shape(lambda tree: as_matrices(tree, layout), tree)


def as_leaves(matrices: Tree, layout: Tree, like: Tree) -> Tree:
    """The inverse of :func:`as_matrices`: reshapes to the shapes of ``like``."""

    def one(matrix, entry, leaf):
        order = _order(entry)
        shape = [leaf.shape[axis] for axis in order]
        return matrix.reshape(shape).transpose(np.argsort(order))

    return jax.tree.map(one, matrices, layout, like)


def _order(entry: ParamLayout) -> tuple[int, ...]:
    return (*entry.stacked, *entry.inputs, *entry.outputs)


def map_matrices(function: Callable[..., Tree], layout: Tree, *trees: Tree) -> Tree:
    """Applies ``function`` to every matrix of a tree, in one batch per shape.

    Args:
      function: takes the entries of ``trees`` for a single matrix; returns an array or a tree of arrays.
      layout: a :class:`~jaxopt_mini.ParamLayout` for every leaf.
      *trees: trees with an array, or a tree of arrays, in place of each leaf; their first axes are the stacked ones.

    Returns:
      A tree with the function's result in place of each leaf, stacked like its input.

    >>> tree = {"a": jnp.ones((2, 3)), "b": jnp.full((4, 2, 3), 2.0)}
    >>> layout = {"a": MATRIX, "b": ParamLayout("matrix", (0,), (1,), (2,))}
    >>> sums = map_matrices(lambda matrix: matrix.sum(), layout, tree)
    >>> print(sums["a"], sums["b"])
    6.0 [12. 12. 12. 12.]
    """
    entries, treedef = jax.tree.flatten(layout)
    rows = list(zip(*map(treedef.flatten_up_to, trees), strict=True))
    stacks = [_leading(row, len(entry.stacked)) for row, entry in zip(rows, entries, strict=True)]
    flat = [_reshape(row, len(stack), (math.prod(stack),)) for row, stack in zip(rows, stacks, strict=True)]
    results: list[Any] = [None] * len(rows)
    for members in _alike(flat).values():
        batch = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *(flat[i] for i in members))
        mapped = _map_divided(function, batch)
        start = 0
        for i in members:
            stop = start + math.prod(stacks[i])
            result = jax.tree.map(lambda array, at=slice(start, stop): array[at], mapped)
            results[i] = _reshape(result, 1, stacks[i])
            start = stop
    return treedef.unflatten(results)


def unzip(tuples: Tree, layout: Tree, length: int = 2) -> tuple[Tree, ...]:
    """Splits a tree with a tuple of ``length`` entries in place of each leaf into ``length`` trees."""
    treedef = jax.tree.structure(layout)
    leaves = treedef.flatten_up_to(tuples)
    return tuple(treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(length))


class Sides(NamedTuple):
    """A value for the input side and one for the output side of a matrix; None for a side without one."""

    inputs: Any
    outputs: Any


def sides(function: Callable[..., Any], *arguments: Sides) -> Sides:
    """Applies ``function`` on both sides, except where the first argument is None."""
    return Sides(*(None if args[0] is None else function(*args) for args in zip(*arguments, strict=True)))


def square_sides(layout: Tree, matrices: Tree, largest: int) -> tuple[Tree, Tree]:
    """Zeros ``(*stacked, side, side)``, float32, for each side of each matrix that is at most ``largest`` long.

    Vectors have no sides. The result is stored, see :func:`store_sides`.
    """

    def one(entry, matrix):
        *stack, fan_in, fan_out = matrix.shape
        lengths = (fan_in, fan_out) if entry.inputs and entry.outputs else (None, None)
        dtype = wide_dtype(matrix.dtype)
        return Sides(*(jnp.zeros((*stack, n, n), dtype) if n and n <= largest else None for n in lengths))

    return store_sides(jax.tree.map(one, layout, matrices), layout)


def identity_sides(stored: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
    """Identities in the place of the zeros of :func:`square_sides`."""

    def one(side):
        if side.shape == NO_SIDE:
            return jnp.copy(side)
        return jnp.broadcast_to(jnp.eye(side.shape[-1], dtype=side.dtype), side.shape)

    return jax.tree.map(one, stored)


NO_SIDE = ()  # the shape of the array that stands for None in a state; Orbax does not save empty arrays


def store_sides(tree: Tree, layout: Tree) -> tuple[Tree, Tree]:
    """Turns a tree of :class:`Sides` into two trees like the parameters, as a state holds them: inputs and outputs.

    A state with a tuple in place of each leaf would not work with ``optax.tree_map_params`` and ``nnx.Optimizer``.
    """

    def one(_, side):
        return jnp.zeros(NO_SIDE, jnp.float32) if side is None else side

    inputs, outputs = (jax.tree.map(one, layout, side) for side in unzip(tree, layout))
    return inputs, outputs


def load_sides(stored: tuple[Tree, Tree], layout: Tree) -> Tree:
    """The inverse of :func:`store_sides`."""

    def one(_, *pair):
        return Sides(*(None if side.shape == NO_SIDE else side for side in pair))

    return jax.tree.map(one, layout, *stored)


def map_with_sides(
    function: Callable[..., tuple[Any, ...]],
    layout: Tree,
    trees: Sequence[Tree],
    stored: Sequence[tuple[Tree, Tree]],
    results: int = 1,
) -> list[Any]:
    """Applies ``function`` to every matrix and its sides, in one batch per shape; see :func:`map_matrices`.

    Args:
      function: takes the entries of ``trees`` and a :class:`Sides` for each of ``stored``, of a single matrix; returns
        ``results`` arrays, and the new sides.
      layout: a :class:`~jaxopt_mini.ParamLayout` for every leaf.
      trees: trees of matrices ``(*stacked, inputs, outputs)``.
      stored: sides as a state holds them, see :func:`store_sides`.
      results: number of arrays that ``function`` returns before the sides.

    Returns:
      A tree for each of the ``results``, and the new sides as a state holds them.
    """
    pairs = (load_sides(each, layout) for each in stored)
    new = unzip(map_matrices(function, layout, *trees, *pairs), layout, results + len(stored))
    return [*new[:results], *(store_sides(each, layout) for each in new[results:])]


def on_sides(matrix: jax.Array, by: Sides) -> jax.Array:
    """L' M R; a side that is None is left out of the product."""
    if by.inputs is not None:
        matrix = multiply(by.inputs.conj().mT, matrix)
    return matrix if by.outputs is None else multiply(matrix, by.outputs)


def grams(matrix: jax.Array) -> Sides:
    """M M' and M' M."""
    return Sides(multiply(matrix, matrix.conj().mT), multiply(matrix.conj().mT, matrix))


def map_blocks(function: Callable[..., tuple[jax.Array, Any, Any]], size: int) -> Callable[..., Any]:
    """Maps a function over the blocks of matrices; the last block of a side is padded with zeros.

    Args:
      function: three matrices, of one block each, and further arguments -> one matrix and others.
      size: longest side of a block.

    Returns:
      A function of three whole matrices and of further arguments with an axis of blocks; its first result is a whole
      matrix, the others have an axis of blocks.
    """

    def mapped(*arguments):
        matrices, others = arguments[:3], arguments[3:]
        shape = matrices[0].shape
        block = [min(size, side) for side in shape]
        counts = [-(-side // length) for side, length in zip(shape, block, strict=True)]

        def cut(matrix):
            padding = [(0, n * length - side) for n, length, side in zip(counts, block, shape, strict=True)]
            tiles = jnp.pad(matrix, padding).reshape(counts[0], block[0], counts[1], block[1])
            return tiles.transpose(0, 2, 1, 3).reshape(-1, *block)

        first, *rest = jax.vmap(function)(*map(cut, matrices), *others)
        tiles = first.reshape(*counts, *block).transpose(0, 2, 1, 3)
        whole = tiles.reshape(counts[0] * block[0], counts[1] * block[1])[: shape[0], : shape[1]]
        return whole, *rest

    return mapped


def _map_divided(function: Callable[..., Tree], stacks: Tree) -> Tree:
    """Maps over the first axis; on a mesh, each device computes only its share, rounded up.

    A stack that doesn't divide evenly is padded with copies of its last matrix, which give NaN only if the matrix
    itself does.
    """
    count = len(jax.tree.leaves(stacks)[0])
    axes, padding = _division(count)
    if not axes:
        return jax.vmap(function)(*stacks)

    def pad(stack):
        return jnp.concatenate((stack, *[stack[-1:]] * padding)) if padding else stack

    steps = [axes[:n] for n in range(1, len(axes) + 1)]
    mapped = jax.vmap(function)(*_reshard(jax.tree.map(pad, stacks), steps))
    return jax.tree.map(lambda stack: stack[:count], _reshard(mapped, steps[::-1]))


def _reshard(stacks: Tree, steps: list[tuple[str, ...]]) -> Tree:
    """Shards the first axis of every array over each of ``steps`` in turn, a growing or shrinking list of mesh axes.

    One axis at a time is an all-to-all; for several at once the compiler may fall back to replicating the array.
    """

    def one(stack):
        for axes in steps:
            others = [None if axes == max(steps, key=len) else PartitionSpec.UNCONSTRAINED] * (stack.ndim - 1)
            stack = jax.lax.with_sharding_constraint(stack, PartitionSpec(axes, *others))
        return stack

    return jax.tree.map(one, stacks)


def _division(count: int) -> tuple[tuple[str, ...], int]:
    """The axes of the current mesh over which to shard ``count`` matrices, and the number of matrices of padding.

    Of the choices with the smallest share per device, the one with the least padding, then the fewest axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    automatic = [name for name, kind in kinds if kind == AxisType.Auto and mesh.shape[name] > 1]
    choices = itertools.chain(*(itertools.combinations(automatic, n) for n in range(len(automatic) + 1)))

    def cost(axes):
        devices = math.prod(mesh.shape[name] for name in axes)
        share = -(-count // devices)
        return share, share * devices - count, len(axes)

    best = min(choices, key=cost)
    return best, cost(best)[1]


def _leading(row: Tree, count: int) -> tuple[int, ...]:
    """The sizes of the stacked axes, which are the same in every array of a row."""
    return jax.tree.leaves(row)[0].shape[:count]


def _reshape(row: Tree, count: int, stack: tuple[int, ...]) -> Tree:
    """Replaces the first ``count`` axes by ``stack``."""
    return jax.tree.map(lambda array: array.reshape(*stack, *array.shape[count:]), row)


def _alike(rows: list[Tree]) -> dict[Hashable, list[int]]:
    """Groups the indices of rows whose arrays differ only in the number of copies."""
    groups: dict[Hashable, list[int]] = {}
    for i, row in enumerate(rows):
        arrays, treedef = jax.tree.flatten(row)
        key = (treedef, *((array.shape[1:], array.dtype) for array in arrays))
        groups.setdefault(key, []).append(i)
    return groups
