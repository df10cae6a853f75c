"""Optax's transformations, and those of every library with Optax's interface."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxopt_conformance.recordings import Tree


class from_optax:  # noqa: N801
    """An optimizer with Optax's ``init`` and ``update``.

    Args:
      tx: an ``optax.GradientTransformation``.
    """

    def __init__(self, tx: Any):
        import jax

        self._tx = tx
        self._update = jax.jit(self._one_step)

    def _one_step(self, grads, state, params):
        import jax

        updates, state = self._tx.update(grads, state, params)
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates), state

    def init(self, params: Tree) -> Any:
        """The state of the transformation."""
        import jax.numpy as jnp

        return self._tx.init({name: jnp.asarray(p) for name, p in params.items()})

    def step(self, params: Tree, grads: Tree, state: Any) -> tuple[Tree, Any]:
        """One compiled step."""
        new, state = self._update(grads, state, params)
        return {name: np.asarray(p) for name, p in new.items()}, state
