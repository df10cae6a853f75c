"""Rprop: per-entry step sizes that grow while the gradient keeps its sign and shrink when it changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByRpropState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    require_real,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale, scale_by_learning_rate
from jaxopt_mini.tree import cast_like, full_like, widen, zeros_like


def scale_by_rprop(
    learning_rate: ArrayLike,
    eta_minus: ArrayLike = 0.5,
    eta_plus: ArrayLike = 1.2,
    min_step_size: ArrayLike = 1e-6,
    max_step_size: ArrayLike = 50.0,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`rprop`, as an ascent step.

    Args:
      learning_rate: initial step size of every entry.
      eta_minus: factor of the step size when the gradient changed its sign, in [0, 1).
      eta_plus: factor of the step size when the gradient kept its sign.
      min_step_size: smallest step size.
      max_step_size: largest step size.

    Returns:
      A transformation with an ``optax.ScaleByRpropState``, with step_sizes and prev_updates like the parameters.
    """
    check_fraction(eta_minus=eta_minus)
    check_nonnegative(learning_rate=learning_rate, eta_plus=eta_plus)
    check_nonnegative(min_step_size=min_step_size, max_step_size=max_step_size)

    def adapted(agreement, size):
        size = widen(size)
        moved = size * jnp.where(agreement > 0, eta_plus, eta_minus)
        return jnp.where(agreement == 0, size, jnp.clip(moved, min_step_size, max_step_size))

    def init(params):
        require_real(params, "rprop")  # it compares signs
        return ScaleByRpropState(step_sizes=full_like(params, learning_rate), prev_updates=zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        agreement = jax.tree.map(lambda g, old: jnp.sign(widen(g)) * jnp.sign(widen(old)), updates, state.prev_updates)
        sizes = jax.tree.map(adapted, agreement, state.step_sizes)
        # After a sign change the entry skips a step and stores a zero, so that the next sign counts as new.
        steps = jax.tree.map(lambda a, s, g: jnp.where(a < 0, 0, s * jnp.sign(widen(g))), agreement, sizes, updates)
        state = ScaleByRpropState(cast_like(sizes, state.step_sizes), cast_like(steps, state.prev_updates))
        return cast_like(steps, updates), state

    return transformation(init, update)


def rprop(
    learning_rate: ScalarOrSchedule,
    eta_minus: ArrayLike = 0.5,
    eta_plus: ArrayLike = 1.2,
    min_step_size: ArrayLike = 1e-6,
    max_step_size: ArrayLike = 50.0,
) -> GradientTransformation:
    """Step sizes per entry that adapt to the gradient's sign.

    Riedmiller, Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm" (1993), in
    the form without backtracking of Igel, Huesken (2000). Only the sign of the gradient matters; for each entry::

        s <- min(s eta_plus, max_step_size)      and  p <- p - s sign(g)    if the gradient kept its sign
        s <- max(s eta_minus, min_step_size)     and  p is unchanged        if it changed its sign
        s is unchanged                           and  p <- p - s sign(g)    in the first step and after a change

    It is meant for full-batch gradients: noise changes signs, and step sizes shrink to the minimum.

    Departures from Optax: each call returns its own step. Optax returns that of the previous call, so that the first is
    zero and every gradient acts one step late. torch's ``Rprop`` is the same, with ``etas=(eta_minus, eta_plus)`` and
    ``step_sizes=(min_step_size, max_step_size)``.

    Args:
      learning_rate: initial step size of every entry, 1e-3 to 1e-1. A schedule instead multiplies the step sizes, which
        then start from 1, and their bounds.
      eta_minus: factor of the step size when the gradient changed its sign, in [0, 1).
      eta_plus: factor of the step size when the gradient kept its sign, above 1.
      min_step_size: smallest step size.
      max_step_size: largest step size.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = rprop(0.1)
    >>> state = tx.init(jnp.float32(0.0))
    >>> for grad in (3.0, 0.2, -1.0, -1.0):
    ...     updates, state = tx.update(jnp.float32(grad), state)
    ...     print(round(updates.item(), 3))
    -0.1
    -0.12
    -0.0
    0.06
    """
    check_nonnegative(learning_rate=learning_rate)
    bounds = eta_minus, eta_plus, min_step_size, max_step_size
    if callable(learning_rate):
        return chain(scale_by_rprop(1.0, *bounds), scale_by_learning_rate(learning_rate))
    return chain(scale_by_rprop(learning_rate, *bounds), scale(-1.0))
