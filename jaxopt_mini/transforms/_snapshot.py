"""Record a measurement of the updates in the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from optax import SnapshotState

from jaxopt_mini.base import GradientTransformationExtraArgs, Updates, transformation


def snapshot(measure_name: str, measure: Callable[[Updates], Any]) -> GradientTransformationExtraArgs:
    """Passes updates through unchanged and stores ``measure(updates)`` in the state; read it with ``states.get``.

    Before the first step the state holds zeros with the shapes and dtypes of ``measure(params)``; later measurements
    are cast to these, so that the structure of the state never changes.

    Args:
      measure_name: name of the entry.
      measure: function of the updates at this position of the chain; returns a tree of numbers.

    Returns:
      A transformation with an ``optax.SnapshotState``.

    >>> from jaxopt_mini import chain, states, tree
    >>> from jaxopt_mini.transforms import scale
    >>> tx = chain(scale(0.5), snapshot("halved", tree.norm))
    >>> grads = {"w": jnp.array([3.0, 4.0])}
    >>> _, state = tx.update(grads, tx.init(grads))
    >>> states.get(state, "halved").item()
    2.5
    """

    def init(params):
        abstract = jax.eval_shape(measure, params)
        return SnapshotState({measure_name: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)})

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        before = state.measurement[measure_name]
        now = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), measure(updates), before)
        return updates, SnapshotState({measure_name: now})

    return transformation(init, update)
