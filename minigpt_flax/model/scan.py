"""Apply a function to stacked layers: one array per parameter, with the layers along its first axis.

Stacked arrays are few and large at any depth, which keeps an optimizer's update and the compilation short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def apply_layers(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, layers: Any, *, loop: bool
) -> tuple[Any, Any]:
    """Call ``carry, out = body(carry, layer)`` for each layer in order.

    Args:
      body: function of one layer.
      carry: input of the first layer.
      layers: tree of arrays with the layers along the first axis.
      loop: whether to compile one loop (whose compile time does not grow with the number of layers) or to unroll the
        layers (which lets the compiler optimize across them).

    Returns:
      The last layer's carry, and the ``out`` of all layers stacked.

    >>> apply_layers(lambda x, w: (w * x, x), jnp.float32(1), jnp.array([2.0, 3.0]), loop=False)
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
    """Split a stacked tree into one tree per layer.

    One `jax.lax.split` per array, whose gradient is one concatenation; the gradient of indexing each layer is a sum of
    arrays that are zero except in that layer.
    """
    leaves, structure = jax.tree.flatten(layers)
    parts = [[part[0] for part in jax.lax.split(leaf, [1] * leaf.shape[0])] for leaf in leaves]
    return [structure.unflatten(layer) for layer in zip(*parts, strict=True)]
