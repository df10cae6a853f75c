"""Factored second moments: row and column means in place of one value per entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax import FactoredState

from jaxopt_mini.base import GradientTransformationExtraArgs, transformation
from jaxopt_mini.check import check_function, check_nonnegative, check_static
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.matrices import unzip
from jaxopt_mini.tree import absolute_square, average, cast_like, increment, mean, widen, zeros_like


def _row_and_column(leaf: jax.Array, entry: ParamLayout, smallest: int) -> tuple[int, int] | None:
    """The two longest axes of one copy, the shorter first; None if they are too short or there is only one."""
    axes = sorted(entry.inputs + entry.outputs)
    order = np.argsort([leaf.shape[axis] for axis in axes], kind="stable")
    if len(axes) < 2 or leaf.shape[axes[order[-2]]] < smallest:
        return None
    return axes[order[-2]], axes[order[-1]]


def power_decay(count: ArrayLike, decay_rate: ArrayLike) -> jax.Array:
    """The decay of the second moment after ``count`` steps, ``1 - (count + 1)^-decay_rate``: rises from 0 towards 1."""
    return 1 - 1 / (jnp.asarray(count, jnp.float32) + 1) ** decay_rate


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: ArrayLike = 0.8,
    step_offset: ArrayLike = 0,
    min_dim_size_to_factor: int | jax.Array = 128,
    epsilon: ArrayLike = 1e-30,
    decay_rate_fn: Callable[[ArrayLike, ArrayLike], ArrayLike] = power_decay,
    *,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`~jaxopt_mini.adafactor`: gradients divided by a factored root mean square.

    Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (2018, arXiv 1804.04235)::

        b = 1 - t^-decay_rate
        R <- b R + (1 - b) mean_j (g^2 + epsilon)         C <- b C + (1 - b) mean_i (g^2 + epsilon)
        u = g / sqrt(R_i C_j / mean(R))

    Args:
      factored: False stores the second moment of every entry.
      decay_rate: power of the decay, >= 0: b rises from 0 towards 1.
      step_offset: number of the first step, for fine-tuning.
      min_dim_size_to_factor: tensors whose second longest axis is shorter are not factored.
      epsilon: added to the squares.
      decay_rate_fn: decay b as a function of the number of completed steps and of ``decay_rate``.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it. Stacked axes are never rows or columns.

    Returns:
      A transformation with an ``optax.FactoredState``; count int32[], for each leaf v_row and v_col, shaped like the
      leaf without its longest and without its second longest axis, or v, shaped like the leaf. Unused ones have shape
      (1,).
    """
    check_nonnegative(decay_rate=decay_rate, epsilon=epsilon)
    check_static(min_dim_size_to_factor=min_dim_size_to_factor)
    check_function(decay_rate_fn=decay_rate_fn)
    smallest = int(min_dim_size_to_factor)

    def means(square, entry):
        """(v_row, v_col, v) of the squares of one leaf; unused ones are zeros(1)."""
        axes = _row_and_column(square, entry, smallest) if factored else None
        if axes is None:
            return jnp.zeros(1, square.dtype), jnp.zeros(1, square.dtype), square
        return mean(square, axes[1]), mean(square, axes[0]), jnp.zeros(1, square.dtype)

    def moments(squares, entries):
        return unzip(jax.tree.map(means, squares, entries), entries, 3)

    def divided(grad, entry, row, column, v):
        axes = _row_and_column(grad, entry, smallest) if factored else None
        if axes is None:
            return widen(grad) * jax.lax.rsqrt(v)
        row, column = jnp.expand_dims(row, axes[1]), jnp.expand_dims(column, axes[0])
        return widen(grad) * jax.lax.rsqrt(row / jnp.mean(row, axes[0], keepdims=True)) * jax.lax.rsqrt(column)

    def init(params):
        zeros = zeros_like(params)
        return FactoredState(jnp.zeros((), jnp.int32), *moments(zeros, resolve(layout, params)))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve(layout, updates)
        b = decay_rate_fn(state.count.astype(jnp.float32) - jnp.asarray(step_offset, jnp.float32), decay_rate)
        squares = jax.tree.map(lambda g: absolute_square(g) + epsilon, updates)
        new = average(moments(squares, entries), tuple(state[1:]), b)
        direction = jax.tree.map(divided, updates, entries, *new)
        return cast_like(direction, updates), FactoredState(increment(state.count), *cast_like(new, tuple(state[1:])))

    return transformation(init, update)
