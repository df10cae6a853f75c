"""What a step measures, on its way from the device: one array for all numbers, as each array costs time to fetch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_pytree_node_class
class Metrics(Mapping):
    """A mapping of names to arrays, whose float32[] lie in one array.

    With every probe a step has forty of them, and to fetch each by itself took a twentieth of a step of ``nano``.

    Args:
      names: of the numbers.
      numbers: float32[names].
      others: name -> array of another shape or type.
    """

    def __init__(self, names: tuple[str, ...], numbers: Any, others: dict[str, Any]):
        self.names, self.numbers, self.others = names, numbers, others

    @classmethod
    def of(cls, metrics: Mapping[str, jax.Array]) -> Metrics:
        """Packs them.

        >>> packed = Metrics.of({"loss": jnp.float32(2.5), "squares": jnp.zeros(3), "lr": jnp.float32(0.5)})
        >>> packed.numbers.shape, float(packed["lr"]), sorted(packed)
        ((2,), 0.5, ['loss', 'lr', 'squares'])
        """
        scalar = lambda value: value.shape == () and value.dtype == jnp.float32
        names = tuple(name for name, value in metrics.items() if scalar(value))
        others = {name: value for name, value in metrics.items() if name not in names}
        return cls(names, jnp.stack([metrics[name] for name in names]) if names else jnp.zeros(0), others)

    def __getitem__(self, name: str) -> Any:
        """One of them."""
        return self.numbers[self.names.index(name)] if name in self.names else self.others[name]

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        yield from self.names
        yield from self.others

    def __len__(self) -> int:
        """Their number."""
        return len(self.names) + len(self.others)

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[str, ...]]:
        """The arrays, and what JAX needn't see."""
        return (self.numbers, self.others), self.names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: tuple[Any, Any]) -> Metrics:
        """Undoes it."""
        return cls(names, *arrays)
