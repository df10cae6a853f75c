"""Fused projections: an optimizer treats the parts of an array, such as queries, keys and values, as matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, transformation
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import resolve
from jaxopt_mini.tree import evaluate, path_name

Tree = Any


def split_outputs(
    make: Callable[..., GradientTransformation],
    parts: Mapping[str, Sequence[int]],
    *,
    axis: int = -1,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """Lets an optimizer of whole matrices treat the parts of fused projections separately.

    Muon, Shampoo or a trust ratio on a fused array of queries, keys and values mixes three unrelated maps. Parts of
    equal width may be a stacked axis in the layout; this wrapper also takes parts of different widths, such as those
    of grouped-query attention.

    Put averages of the parameters around it, not inside.

    Args:
      make: function that takes ``layout`` and returns an optimizer, such as ``functools.partial(muon, 0.02)``. The
        tree that the optimizer sees has a dictionary of the parts, "0", "1", ..., in place of each fused array.
      parts: pattern of the path of an array, with ``*`` and ``?`` -> widths of its parts along ``axis``.
      axis: the axis of the outputs along which the parts lie, in each of these arrays.
      layout: tree of :class:`~jaxopt_mini.ParamLayout` of the fused arrays; None infers it.

    Returns:
      A transformation with the state of the optimizer, on the tree of parts.

    Raises:
      ValueError: from ``init``: the widths don't add up to the size of the array, or a pattern matches none.

    >>> from functools import partial
    >>> from jaxopt_mini import muon
    >>> tx = split_outputs(partial(muon, 1.0, debias=False), {"*/qkv/kernel": (2, 1, 1)})
    >>> params = {"attention": {"qkv": {"kernel": jnp.ones((2, 4))}}}
    >>> jax.tree.map(jnp.shape, tx.init(params).inner_states["muon"].inner_state[0].mu)
    {'attention': {'qkv': {'kernel': {'0': (2, 2), '1': (2, 1), '2': (2, 1)}}}}
    """

    def widths(path):
        return next((sizes for pattern, sizes in parts.items() if fnmatchcase(path_name(path), pattern)), None)

    def split(tree: Tree) -> Tree:
        def one(path, leaf):
            sizes = widths(path)
            if sizes is None:
                return leaf
            pieces = jnp.split(leaf, list(accumulate(sizes))[:-1], axis)
            return {str(i): piece for i, piece in enumerate(pieces)}

        return jax.tree.map_with_path(one, tree)

    def join(pieces: Tree, like: Tree) -> Tree:
        def one(path, leaf, part):
            del leaf
            return part if widths(path) is None else jnp.concatenate(list(part.values()), axis)

        return jax.tree.map_with_path(one, like, pieces)

    def optimizer(tree: Tree) -> GradientTransformationExtraArgs:
        def one(path, entry):
            sizes = widths(path)
            return entry if sizes is None else {str(i): entry for i in range(len(sizes))}

        return transformation(*make(layout=jax.tree.map_with_path(one, resolve(layout, tree))))

    def init(params):
        _check(parts, params, axis)
        return optimizer(params).init(evaluate(split, params))

    def update(updates, state, params=None, **extra_args):
        inside = None if params is None else split(params)
        new, state = optimizer(updates).update(split(updates), state, inside, **extra_args)
        return join(new, updates), state

    return keep_shardings(init, update)


def _check(parts: Mapping[str, Sequence[int]], params: Tree, axis: int) -> None:
    """Raises ValueError where ``parts`` doesn't fit the parameters."""
    named = {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for pattern, sizes in parts.items():
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"no parameter matches the pattern {pattern!r}: choose from {', '.join(named)}")
        for name in found:
            shape = named[name].shape
            if not -len(shape) <= axis < len(shape) or sum(sizes) != shape[axis] or min(sizes) < 1:
                raise ValueError(
                    f"{name} of shape {shape} can't be split along axis {axis} into parts of {tuple(sizes)}: "
                    "give positive widths that add up to the size of this axis"
                )
