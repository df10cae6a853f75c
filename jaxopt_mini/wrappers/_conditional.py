"""Run a transformation only when a condition holds: what the wrappers that skip or wait share."""

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
    extra: dict[str, Any],
) -> tuple[Updates, OptState]:
    """``inner.update`` where ``condition`` (bool[]) holds, else updates of zero and the state as it was.

    The inner rule is inside a ``jax.lax.cond``, so a skipped step costs nothing (under ``vmap`` both branches run).
    """

    def run():
        return inner.update(updates, state, params, **extra)

    def skip():
        new, _ = jax.eval_shape(run)  # its updates need not have the gradients' dtypes
        return jax.tree.map(lambda leaf, grad: jnp.zeros_like(grad, dtype=leaf.dtype), new, updates), state

    return jax.lax.cond(condition, run, skip)
