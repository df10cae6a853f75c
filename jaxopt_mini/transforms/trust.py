"""Scale by the size of the parameters: the norm or root mean square of each tensor; stacked ones layer by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformationExtraArgs, require_params, stateless
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.tree import absolute_square, times


def tensor_norm(leaf: jax.Array, entry: ParamLayout) -> jax.Array:
    """2-norm of each stacked copy; reduced axes have length 1."""
    return jnp.sqrt(jnp.sum(absolute_square(leaf), entry.inputs + entry.outputs, keepdims=True))


def _rms(leaf: jax.Array, entry: ParamLayout) -> jax.Array:
    """Root mean square of each stacked copy; reduced axes have length 1."""
    return jnp.sqrt(jnp.mean(absolute_square(leaf), entry.inputs + entry.outputs, keepdims=True))


def scale_by_trust_ratio(
    min_norm: ArrayLike = 0.0,
    trust_coefficient: ArrayLike = 1.0,
    eps: ArrayLike = 0.0,
    *,
    max_norm: ArrayLike | None = None,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """Scales each tensor's update in proportion to the tensor's norm, by ``coefficient |p| / (|u| + eps)``.

    You et al., "Large Batch Training of Convolutional Networks" (2017, arXiv 1708.03888). If the tensor or the update
    has norm 0, the update is unchanged.

    Args:
      min_norm: lower bound of both norms.
      trust_coefficient: norm of the result relative to that of the tensor.
      eps: added to the norm of the update.
      max_norm: upper bound of the norm of a tensor; None is unbounded.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation without state, whose ``update`` needs the parameters.

    >>> tx = scale_by_trust_ratio()
    >>> updates, params = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([0.0, 10.0])}
    >>> print(tx.update(updates, tx.init(params), params)[0]["w"])
    [6. 8.]
    """
    check_nonnegative(min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps, max_norm=max_norm)

    def scaled(update, param, entry):
        ours, theirs = (jnp.maximum(tensor_norm(leaf, entry), min_norm) for leaf in (update, param))
        theirs = theirs if max_norm is None else jnp.minimum(theirs, max_norm)
        zero = (ours == 0) | (theirs == 0)
        return times(update, jnp.where(zero, 1.0, trust_coefficient * theirs / jnp.where(zero, 1.0, ours + eps)))

    def scale_all(updates, params):
        params = require_params(params, "scale_by_trust_ratio")
        return jax.tree.map(scaled, updates, params, resolve(layout, params))

    return stateless(scale_all)


def scale_by_param_block_rms(
    min_scale: ArrayLike = 1e-3, *, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Makes steps relative to the weights: multiplies each tensor's update by the root mean square of the tensor.

    Shazeer, Stern, "Adafactor" (2018, arXiv 1804.04235), section 8.

    Args:
      min_scale: lower bound of the root mean square of a tensor, so that zero tensors can move.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation without state, whose ``update`` needs the parameters.

    >>> tx = scale_by_param_block_rms()
    >>> updates, params = {"w": jnp.ones(2)}, {"w": jnp.array([3.0, -3.0])}
    >>> print(tx.update(updates, tx.init(params), params)[0]["w"])
    [3. 3.]
    """
    check_nonnegative(min_scale=min_scale)

    def scaled(update, param, entry):
        return times(update, jnp.maximum(_rms(param, entry), min_scale))

    def scale_all(updates, params):
        params = require_params(params, "scale_by_param_block_rms")
        return jax.tree.map(scaled, updates, params, resolve(layout, params))

    return stateless(scale_all)
