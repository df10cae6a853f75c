"""Gradient clipping: by global norm, by value, by the RMS of each tensor.

:func:`~jaxopt_mini.transforms.adaptive_clip` clips relative to the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformationExtraArgs, stateless, transformation
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.layout import resolve
from jaxopt_mini.tree import absolute_square, norm, times, widen


def at_most(threshold: ArrayLike, size: jax.Array) -> jax.Array:
    """The factor that scales ``size`` to at most ``threshold``; finite for a size of 0, NaN for NaN."""
    return jnp.minimum(1.0, threshold / jnp.maximum(size, jnp.finfo(size.dtype).tiny))


class ClipByNormState(NamedTuple):
    """Measurements of the last step, for monitoring; the next step doesn't depend on them."""

    norm: jax.Array  # float32[]: norm of the updates before clipping
    factor: jax.Array  # float32[]: factor of the last step; below 1 means clipped


def clip_by_norm(threshold: ArrayLike, *, ord: int | float = 2) -> GradientTransformationExtraArgs:
    """Bounds the global norm of the updates by ``threshold``.

    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks" (2013, arXiv 1211.5063):
    ``g <- g * min(1, threshold / |g|)``. torch divides by ``|g| + 1e-6`` instead: relative difference ``1e-6 / |g|``.

    A zero gradient stays zero, even with threshold 0. A NaN anywhere makes every update NaN. An infinite norm (an
    infinite entry, or entries beyond 1e19, whose squares overflow) makes infinite entries NaN and all others zero; the
    norm in the state shows it.

    Args:
      threshold: largest norm, >= 0; 1.0 is usual for language models.
      ord: 2, any p >= 1, or ``jnp.inf`` for the largest absolute entry.

    Returns:
      A transformation whose :class:`ClipByNormState` holds the norm before clipping (float32[]).

    Raises:
      ValueError: a number is out of range.

    >>> tx = clip_by_norm(1.0)
    >>> grads = {"w": jnp.array([3.0, 4.0])}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> print(updates["w"], state.norm)
    [0.6 0.8] 5.0
    """
    check_nonnegative(threshold=threshold)
    if not ord >= 1:
        raise ValueError(f"ord={ord} is out of range: give a number >= 1, or inf")

    def init(params):
        del params
        return ClipByNormState(norm=jnp.zeros((), jnp.float32), factor=jnp.ones((), jnp.float32))

    def update(updates, state, params=None, **extra_args):
        del state, params, extra_args
        total = norm(updates, ord).astype(jnp.float32)
        factor = at_most(threshold, total)
        clipped = jax.tree.map(lambda g: times(g, factor), updates)
        return clipped, ClipByNormState(norm=total, factor=factor)

    return transformation(init, update)


def clip_by_global_norm(max_norm: ArrayLike) -> GradientTransformationExtraArgs:
    """Bounds the global norm of the updates, like :func:`clip_by_norm`, without a state.

    Optax's name and state: a checkpoint of a chain with ``optax.clip_by_global_norm`` resumes.

    Args:
      max_norm: largest norm, >= 0.

    Returns:
      A transformation without state.

    Raises:
      ValueError: ``max_norm`` is negative.

    >>> tx = clip_by_global_norm(1.0)
    >>> grads = {"w": jnp.array([3.0, 4.0])}
    >>> updates, state = tx.update(grads, tx.init(grads))
    >>> print(updates["w"], state)
    [0.6 0.8] EmptyState()
    """
    check_nonnegative(max_norm=max_norm)
    clip = clip_by_norm(max_norm)
    return stateless(lambda updates, params: clip.update(updates, clip.init(updates))[0])


def clip_by_value(threshold: ArrayLike) -> GradientTransformationExtraArgs:
    """Clips every entry to ``[-threshold, threshold]``.

    Like ``optax.clip`` and torch's ``clip_grad_value_``.

    Args:
      threshold: largest absolute value, >= 0.

    Returns:
      A transformation without state.

    Raises:
      ValueError: ``threshold`` is negative.

    >>> grads = {"w": jnp.array([3.0, -0.5])}
    >>> updates, _ = clip_by_value(1.0).update(grads, clip_by_value(1.0).init(grads))
    >>> print(updates["w"])
    [ 1.  -0.5]
    """
    check_nonnegative(threshold=threshold)

    def clip(leaf):
        bound = jnp.asarray(threshold).astype(widen(leaf).dtype)
        return jnp.clip(widen(leaf), -bound, bound).astype(leaf.dtype)

    return stateless(lambda updates, params: jax.tree.map(clip, updates))


def clip_by_block_rms(threshold: ArrayLike, *, layout: Any | None = None) -> GradientTransformationExtraArgs:
    """Bounds the root mean square of each tensor.

    Shazeer, Stern, "Adafactor" (2018, arXiv 1804.04235), section 6: ``u <- u / max(1, RMS(u) / threshold)``. Unlike in
    Optax, tensors stacked over layers are scaled layer by layer.

    Args:
      threshold: largest RMS, >= 0; Adafactor uses 1.0.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation without state.

    Raises:
      ValueError: ``threshold`` is negative.

    >>> grads = {"w": jnp.array([3.0, -4.0, 0.0, 0.0]), "b": jnp.array([0.5])}
    >>> updates, _ = clip_by_block_rms(1.0).update(grads, clip_by_block_rms(1.0).init(grads))
    >>> print(updates["w"], updates["b"])
    [ 1.2 -1.6  0.   0. ] [0.5]
    """
    check_nonnegative(threshold=threshold)

    def clip(leaf, entry):
        axes = entry.inputs + entry.outputs
        rms = jnp.sqrt(jnp.mean(absolute_square(leaf), axes, keepdims=True))
        return times(leaf, at_most(threshold, rms))

    return stateless(lambda updates, params: jax.tree.map(clip, updates, resolve(layout, updates)))
