"""Conditional updates, for wrappers that skip or accumulate steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import GradientTransformationExtraArgs, OptState, Params, Updates


def update_if(
    condition: jax.Array,
    inner: GradientTransformationExtraArgs,
    updates: Updates,
    state: OptState,
    params: Params | None,
    extra_args: dict[str, Any],
) -> tuple[Updates, OptState]:
    """Calls ``inner.update`` if ``condition`` (bool[]) holds; otherwise the updates are zero and the state unchanged.

    The inner update is inside a ``jax.lax.cond``, so a skipped step costs nothing (under ``vmap`` both branches run).
    """

    def run():
        return inner.update(updates, state, params, **extra_args)

    def skip():
        new, _ = jax.eval_shape(run)  # the updates may differ from the gradients in dtype
        return jax.tree.map(lambda leaf, grad: jnp.zeros_like(grad, dtype=leaf.dtype), new, updates), state

    return jax.lax.cond(condition, run, skip)
