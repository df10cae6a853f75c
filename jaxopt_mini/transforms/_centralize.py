"""Gradient centralization: subtracts from each output unit's gradient its mean."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import GradientTransformationExtraArgs, stateless
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.tree import widen


def centralize(*, layout: Any | None = None) -> GradientTransformationExtraArgs:
    """Subtracts from each output unit's gradient its mean over the inputs.

    Yong, Huang, Hua, Zhang, "Gradient Centralization" (2020, arXiv 2004.01461): ``g_i <- g_i - mean(g_i)`` for the
    weights of output i; vectors stay unchanged.

    Departures from Optax: its ``centralize`` averages over all axes but the first, which is right for torch's (outputs,
    inputs) but not for Flax kernels; a layout with ``outputs=(0,)`` reproduces its numbers.

    Args:
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation without state.

    >>> grads = {"kernel": jnp.array([[1.0, 2.0], [3.0, 8.0]])}
    >>> updates, _ = centralize().update(grads, centralize().init(grads))
    >>> print(updates["kernel"])
    [[-1. -3.]
     [ 1.  3.]]
    """

    def center(leaf: jax.Array, entry: ParamLayout) -> jax.Array:
        if not entry.inputs:
            return leaf
        wide = widen(leaf)
        return (wide - jnp.mean(wide, entry.inputs, keepdims=True)).astype(leaf.dtype)

    return stateless(lambda updates, params: jax.tree.map(center, updates, resolve(layout, updates)))
