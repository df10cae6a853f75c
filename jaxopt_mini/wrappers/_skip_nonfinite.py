"""Skip non-finite gradients: a gradient with a NaN or infinity is counted and changes nothing else."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.tree import increment
from jaxopt_mini.wrappers._conditional import conditional_updates, update_if


class SkipNonfiniteState(NamedTuple):
    """State of :func:`skip_nonfinite`."""

    in_a_row: jax.Array  # int32[]: consecutive skipped steps
    skipped: jax.Array  # int32[]: skipped steps in total
    inner_state: OptState


@conditional_updates
def skip_nonfinite(
    inner: GradientTransformation, *, max_in_a_row: int | None = None
) -> GradientTransformationExtraArgs:
    """Skips steps whose gradient has a NaN or an infinity.

    Args:
      inner: a transformation, including clipping: before this wrapper, clipping would spread a NaN to all leaves.
      max_in_a_row: after this many consecutive skipped steps one step is applied as it is, and the count restarts.
        None always skips; a training loop can read ``in_a_row`` from the state and stop. (``optax.apply_if_finite``
        doesn't restart the count: it then applies every step until a gradient is finite.)

    Returns:
      A transformation with a :class:`SkipNonfiniteState`, with the state of ``inner`` and 8 bytes.

    Raises:
      ValueError: ``max_in_a_row`` is not a positive integer.

    >>> from jaxopt_mini import sgd
    >>> tx = skip_nonfinite(sgd(1.0))
    >>> updates, state = tx.update({"w": jnp.float32(jnp.nan)}, tx.init({"w": jnp.float32(0.0)}))
    >>> print(updates["w"], state.in_a_row, state.skipped)
    0.0 1 1
    """
    if max_in_a_row is not None and (not isinstance(max_in_a_row, int) or max_in_a_row < 1):
        raise ValueError(f"max_in_a_row={max_in_a_row} is out of range: give an integer >= 1, or None")
    inner = with_extra_args_support(inner)

    def init(params):
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        take = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)], bool))
        if max_in_a_row is not None:
            take = take | (state.in_a_row >= max_in_a_row)
        new, inner_state = update_if(take, inner, updates, state.inner_state, params, extra_args)
        in_a_row = jnp.where(take, 0, increment(state.in_a_row))
        skipped = jnp.where(take, state.skipped, increment(state.skipped))
        return new, SkipNonfiniteState(in_a_row, skipped, inner_state)

    return transformation(init, update)
