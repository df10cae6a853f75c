"""Blocks: an optimizer of whole matrices treats the blocks of a wide matrix as matrices of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, transformation
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.tree import by_name, evaluate, path_name, per_parameter

Tree = Any


def in_blocks(
    make: Callable[..., GradientTransformation],
    blocks: Any | Callable[[Params], Any],
    *,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """Lets an optimizer treat each parameter as a stack of blocks of a given shape, as distributed Shampoo does.

    An axis of 512 with a block size of 128 becomes a stacked axis of 4 and an axis of 128. Preconditioners are then
    those of the blocks: for an n x n matrix in b x b blocks they take as much memory as for the whole matrix, but their
    decompositions take b/n of the time.

    With the shapes of a narrow model as ``blocks``, each block is a problem like those of that model, which is how
    :func:`mup` gives a width rule to optimizers whose steps have none.

    Put averages of the parameters around it, not inside.

    Args:
      make: function that takes ``layout`` and returns an optimizer, such as ``functools.partial(soap, 3e-3)``. The tree
        that the optimizer sees has the structure of the parameters.
      blocks: tree of arrays (or their abstract shapes) whose shapes are those of the blocks, or a function of the
        parameters that returns it; a superset of the parameters if these are masked. Stacked axes don't count.
      layout: tree of :class:`~jaxopt_mini.ParamLayout` of the parameters, or a function of them that returns it; None
        infers it.

    Returns:
      A transformation with the state of the optimizer, on the stacks of blocks.

    Raises:
      ValueError: from ``init``: a block doesn't divide its parameter; the message names the leaf.

    >>> from functools import partial
    >>> import jax.numpy as jnp
    >>> from jaxopt_mini import soap
    >>> params, narrow = ({"kernel": jnp.ones((n, 2 * n))} for n in (4, 2))
    >>> tx = in_blocks(partial(soap, 3e-3), narrow)
    >>> jax.tree.map(jnp.shape, tx.init(params)[0].bases)
    ({'kernel': (2, 2, 2, 2)}, {'kernel': (2, 2, 4, 4)})
    """

    def stacks(tree: Tree) -> Tree:
        small = by_name(per_parameter(blocks, tree))
        entries = resolve(layout, tree)
        return jax.tree.map_with_path(
            lambda path, leaf, entry: _stack(path_name(path), leaf, small, entry), tree, entries
        )

    def optimizer(planned: Tree) -> GradientTransformationExtraArgs:
        return transformation(*make(layout=jax.tree.map(lambda stack: stack.layout, planned)))

    def split(tree: Tree, planned: Tree) -> Tree:
        return jax.tree.map(lambda leaf, stack: leaf.reshape(stack.shape), tree, planned)

    def init(params):
        planned = stacks(params)
        return optimizer(planned).init(evaluate(lambda tree: split(tree, planned), params))

    def update(updates, state, params=None, **extra_args):
        planned = stacks(updates)
        inside = None if params is None else split(params, planned)
        new, state = optimizer(planned).update(split(updates, planned), state, inside, **extra_args)
        return jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), new, updates), state

    return keep_shardings(init, update)


@dataclass(frozen=True)
class _Stack:
    """A parameter as a stack of blocks: its shape, and the layout that goes with it."""

    shape: tuple[int, ...]
    layout: ParamLayout


def _stack(name: str, leaf: Any, blocks: Mapping[str, Any], entry: ParamLayout) -> _Stack:
    """Splits each axis that is longer than that of a block into a stacked axis and one of the block."""
    block = blocks[name].shape if name in blocks else ()
    if len(block) != leaf.ndim:
        raise ValueError(f"{name} of shape {leaf.shape} has no block with as many axes")
    shape: list[int] = []
    axes: dict[str, list[int]] = {"stacked": [], "inputs": [], "outputs": []}
    for axis, (size, part) in enumerate(zip(leaf.shape, block, strict=True)):
        kind = next(kind for kind in axes if axis in getattr(entry, kind))
        whole = kind == "stacked" or size == part
        if not whole and (part == 0 or size % part):
            raise ValueError(
                f"{name} of shape {leaf.shape} can't be divided into blocks of {block}: along each axis its size must "
                "be a multiple of the block's"
            )
        for kind_of, length in ((kind, size),) if whole else (("stacked", size // part), (kind, part)):
            axes[kind_of].append(len(shape))
            shape.append(length)
    return _Stack(tuple(shape), ParamLayout(entry.role, *map(tuple, axes.values())))
