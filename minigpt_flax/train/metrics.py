"""Metrics of a step: packed into one array, as each array costs time to fetch; and the gradients' norms by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxopt_mini import tree
from jaxopt_mini.tree import path_name


@jax.tree_util.register_pytree_node_class
class Metrics(Mapping):
    """A mapping of names to arrays, whose scalars of type float32 share one array; ``scan`` and ``vmap`` may stack it.

    With every probe a step has forty of them; fetching them one by one took a twentieth of a step of ``nano``.

    Args:
      names: of the numbers.
      numbers: float32[..., names].
      others: name -> array of another shape or type.
    """

    def __init__(self, names: tuple[str, ...], numbers: Any, others: dict[str, Any]):
        self.names, self.numbers, self.others = names, numbers, others

    @classmethod
    def of(cls, metrics: Mapping[str, jax.Array]) -> Metrics:
        """Packs metrics.

        >>> packed = Metrics.of({"loss": jnp.float32(2.5), "squares": jnp.zeros(3), "lr": jnp.float32(0.5)})
        >>> packed.numbers.shape, float(packed["lr"]), sorted(packed)
        ((2,), 0.5, ['loss', 'lr', 'squares'])
        """
        scalar = lambda value: value.shape == () and value.dtype == jnp.float32
        names = tuple(name for name, value in metrics.items() if scalar(value))
        others = {name: value for name, value in metrics.items() if name not in names}
        return cls(names, jnp.stack([metrics[name] for name in names]) if names else jnp.zeros(0), others)

    def __getitem__(self, name: str) -> Any:
        """One metric."""
        if name not in self.names:
            return self.others[name]
        index = self.names.index(name)
        return self.numbers[index] if self.numbers.ndim == 1 else self.numbers[..., index]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a metric; also where the numbers are abstract."""
        return name in self.names or name in self.others

    def __iter__(self) -> Iterator[str]:
        """The names."""
        yield from self.names
        yield from self.others

    def __len__(self) -> int:
        """The number of metrics."""
        return len(self.names) + len(self.others)

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[str, ...]]:
        """The arrays, and the names as static data."""
        return (self.numbers, self.others), self.names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: tuple[Any, Any]) -> Metrics:
        """The inverse of ``tree_flatten``."""
        return cls(names, *arrays)


def tensor_names(layout: Any, shapes: Any) -> list[str]:
    """Names of all tensors: a parameter, or one layer of a stacked one, such as ``blocks/mlp/up/kernel[3]``.

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


def squared_norms(grads: Any, layout: Any) -> Float[Array, " tensors"]:
    """The squared norm of every tensor, in the order of :func:`tensor_names`.

    Args:
      grads: tree of arrays.
      layout: tree of ``ParamLayout``; None takes every array as one tensor.
    """
    leaves = jax.tree.leaves(grads)
    stacks = [()] * len(leaves) if layout is None else [entry.stacked for entry in jax.tree.leaves(layout)]
    squares = []
    for leaf, stacked in zip(leaves, stacks, strict=True):
        axes = [axis for axis in range(leaf.ndim) if axis not in stacked]
        squares.append(jnp.ravel(jnp.sum(tree.absolute_square(leaf), axis=axes)))
    return jnp.concatenate(squares)
