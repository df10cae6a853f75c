"""Running a function through layers that are stored stacked: one array per parameter, the layers along its first axis.

Stacked arrays are few and large whatever the depth, which makes an optimizer's update and a compilation short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def over_layers(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, layers: Any, *, loop: bool) -> tuple[Any, Any]:
    """Calls ``carry, out = body(carry, layer)`` for one layer after the other.

    Args:
        body: What a layer does.
        carry: What the first layer takes.
        layers: Tree of arrays with the layers along the first axis.
        loop: Whether the compiled program is one loop (compiled in the same time whatever the number of layers) or the
            layers written out (which lets the compiler work across them).

    Returns:
        What the last layer hands on, and the ``out`` of all layers stacked.

    >>> over_layers(lambda x, w: (w * x, x), jnp.float32(1), jnp.array([2.0, 3.0]), loop=False)
    (Array(6., dtype=float32), Array([1., 2.], dtype=float32))
    """
    if loop:
        return jax.lax.scan(body, carry, layers)
    outs = []
    for layer in unstack(layers):
        carry, out = body(carry, layer)
        outs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outs)


def unstack(layers: Any) -> list[Any]:
    """Cuts a stacked tree into a tree per layer.

    One `jax.lax.split` per array, whose gradient is one concatenation; that of an index per layer is a sum of arrays
    that are zero but for their layer.
    """
    leaves, structure = jax.tree.flatten(layers)
    parts = [[part[0] for part in jax.lax.split(leaf, [1] * leaf.shape[0])] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
