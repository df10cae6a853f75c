"""JAX candidates of a benchmark: an optimizer of ours or of Optax's, jitted with donation, and memory bandwidth."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import GaLoreDimensionNumbers, MuonDimensionNumbers

from benchmarks.trees import Tree
from jaxopt_mini import OPTIMIZERS

FLOATS_MOVED = 7  # by AdamW at least, a parameter: gradient, parameter, two moments in; the last three out
FLOATS_SCALED = 2


class Jitted:
    """An optimizer with parameters and a state of its own; a call updates and waits.

    Args:
      tx: the optimizer.
      add: what adds its updates to the parameters.
      params: tree of NumPy arrays, copied.
      grads: tree of JAX arrays, used in every update and left as it is.
      updates: number of updates in a call.

    Attributes:
      compile_seconds: what tracing and compiling took.
    """

    def __init__(self, tx: Any, add: Callable, params: Any, grads: Any, updates: int = 1):
        self.params, self.grads, self.updates = jax.tree.map(jnp.array, params), grads, updates
        self.state = jax.jit(tx.init)(self.params)
        self.compile_seconds, self.step = compiled(tx, add, self.params, self.state, grads)

    def __call__(self) -> None:
        """Updates."""
        for _ in range(self.updates):
            self.params, self.state = self.step(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))


def compiled(tx: Any, add: Callable, params: Any, state: Any, grads: Any) -> tuple[float, Callable]:
    """Compiles ``(params, state, grads) -> (params, state)``; the first two are donated.

    Returns:
      Seconds that it took, and the program.
    """
    tx = optax.with_extra_args_support(tx)

    def step(params, state, grads):
        # What some rules ask of a step beside the gradient: loss, randomness, the loss as a function.
        told = {"value": jnp.float32(1.0), "key": jax.random.key(0), "loss_fn": _square, "obj_fn": _square}
        updates, state = tx.update(grads, state, params, **told)
        return add(params, updates), state

    start = time.perf_counter()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
    return time.perf_counter() - start, program


def _square(params: Any) -> jax.Array:
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)) / 2


class Scaling:
    """Multiplies every parameter by one, in place: reads and writes ``FLOATS_SCALED`` floats a parameter."""

    def __init__(self, params: Any):
        self.params = jax.tree.map(jnp.array, params)
        self.step = jax.jit(lambda params, one: jax.tree.map(lambda leaf: leaf * one, params), donate_argnums=0)

    def __call__(self) -> None:
        """Scales."""
        self.params = jax.block_until_ready(self.step(self.params, jnp.float32(1.0)))


def ours(name: str, learning_rate: Any, tree: Tree, **keywords: Any) -> Any:
    """Our optimizer of that name, told the layout if it asks."""
    return _told(OPTIMIZERS[name], learning_rate, {"layout": tree.layout}, keywords)


def optax_of(name: str) -> Callable | None:
    """Optax's optimizer of that name, None where there is none."""
    found = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    return found if callable(found) and "learning_rate" in inspect.signature(found).parameters else None


def theirs(factory: Callable, learning_rate: Any, tree: Tree, **keywords: Any) -> Any:
    """Optax's optimizer, told which leaves are matrices in its own words if it asks."""
    known = {
        "muon_weight_dimension_numbers": dimension_numbers(MuonDimensionNumbers, tree.layout),
        "weight_dimension_numbers": dimension_numbers(GaLoreDimensionNumbers, tree.layout),
    }
    return _told(factory, learning_rate, known, keywords)


def _told(factory: Callable, learning_rate: Any, known: dict[str, Any], keywords: dict[str, Any]) -> Any:
    takes = inspect.signature(factory).parameters
    return factory(learning_rate, **{k: v for k, v in known.items() if k in takes}, **keywords)


def dimension_numbers(kind: Callable, layout: Any) -> Any:
    """A layout in Optax's words: axes of the hidden weights, None for all else."""
    return jax.tree.map(lambda axes: kind(axes.inputs, axes.outputs) if axes.role == "matrix" else None, layout)


def deviation(a: Any, b: Any, start: Any) -> float:
    """Largest difference between two trees, over the largest movement since ``start``."""

    def largest(x, y):
        return max(float(jnp.max(jnp.abs(p - q))) for p, q in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))

    return largest(a, b) / largest(a, start)
