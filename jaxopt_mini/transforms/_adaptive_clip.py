"""Adaptive gradient clipping: bounds each output unit's gradient relative to its weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformationExtraArgs, require_params, stateless
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.transforms.clip import at_most
from jaxopt_mini.tree import absolute_square, times


def _unit_norm(leaf: jax.Array, entry: ParamLayout) -> jax.Array:
    """2-norm over the inputs of each output unit; of a vector, over all its entries."""
    axes = entry.inputs or entry.outputs
    return jnp.sqrt(jnp.sum(absolute_square(leaf), axes, keepdims=True))


def adaptive_clip(
    threshold: ArrayLike, *, eps: ArrayLike = 1e-3, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Bounds gradient norms of units relative to their weights.

    Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization" (2021, arXiv
    2102.06171), for each unit i::

        g_i <- g_i min(1, threshold max(|w_i|, eps) / |g_i|)

    A unit consists of the weights of one output (a column of a Flax kernel); a vector is one unit. Optax's
    ``adaptive_grad_clip`` infers units from the number of axes, which is wrong for heads and stacked layers.

    Args:
      threshold: largest ratio, >= 0; the paper uses 0.01 to 0.16, less for larger batches.
      eps: lower bound of the norm of the weights, so that zero weights can move.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation without state, whose ``update`` needs the parameters.

    Raises:
      ValueError: a number is negative, or ``update`` is called without the parameters.

    >>> grads, params = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([1.0, 0.0])}
    >>> tx = adaptive_clip(0.1)
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates["w"])
    [0.06 0.08]
    """
    check_nonnegative(threshold=threshold, eps=eps)

    def clip(grad, param, entry):
        largest = threshold * jnp.maximum(_unit_norm(param, entry), eps)
        return times(grad, at_most(largest, _unit_norm(grad, entry)))

    def clip_all(updates, params):
        params = require_params(params, "adaptive_clip")
        return jax.tree.map(clip, updates, params, resolve(layout, params))

    return stateless(clip_all)
