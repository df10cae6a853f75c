"""The gradients one by one, those of stacked parameters layer by layer: what the guard looks at and names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxopt_mini import tree
from jaxopt_mini.tree import path_name


def part_names(layout: Any, shapes: Any) -> list[str]:
    """Names every part: a parameter, or one layer of a stacked one, as ``blocks/mlp/up/kernel[3]``.

    Args:
      layout: tree of ``ParamLayout``.
      shapes: the parameters, or their abstract shapes.
    """
    names = []
    leaves = zip(jax.tree.leaves_with_path(layout), jax.tree.leaves(shapes), strict=True)
    for (path, entry), leaf in leaves:
        layers = np.ndindex(*(leaf.shape[axis] for axis in entry.stacked))
        names += [path_name(path) + (f"[{', '.join(map(str, i))}]" if i else "") for i in layers]
    return names


def part_squares(grads: Any, layout: Any) -> Float[Array, " parts"]:
    """The squared norm of every part, in the order of :func:`part_names`.

    Args:
      grads: tree of arrays.
      layout: tree of ``ParamLayout``; None takes every array as one part.
    """
    leaves = jax.tree.leaves(grads)
    stacks = [()] * len(leaves) if layout is None else [entry.stacked for entry in jax.tree.leaves(layout)]
    squares = []
    for leaf, stacked in zip(leaves, stacks, strict=True):
        axes = [axis for axis in range(leaf.ndim) if axis not in stacked]
        squares.append(jnp.ravel(jnp.sum(tree.absolute_square(leaf), axis=axes)))
    return jnp.concatenate(squares)
