"""Optimizers of Keras 3, with any backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxopt_conformance.adapters import imported
from jaxopt_conformance.recordings import Tree


class from_keras:  # noqa: N801
    """An optimizer with the interface of ``keras.optimizers.Optimizer``.

    Args:
      build: makes the optimizer; called once for each replay, as its variables belong to one set of parameters.
    """

    def __init__(self, build: Callable[[], Any]):
        self._build = build

    def init(self, params: Tree) -> Any:
        """The variables, and the optimizer that holds them."""
        keras = imported("keras")

        leaves = {name: keras.Variable(p, name=name.replace("/", "_")) for name, p in params.items()}
        optimizer = self._build()
        optimizer.build(list(leaves.values()))
        return leaves, optimizer

    def step(self, params: Tree, grads: Tree, state: Any) -> tuple[Tree, Any]:
        """One step; the parameters are those that the optimizer holds."""
        keras = imported("keras")

        leaves, optimizer = state
        optimizer.apply([keras.ops.convert_to_tensor(grads[name]) for name in leaves])
        return {name: np.array(keras.ops.convert_to_numpy(leaf)) for name, leaf in leaves.items()}, state
