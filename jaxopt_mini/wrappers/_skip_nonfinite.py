"""Skip nonfinite: a gradient with a NaN or an infinity changes nothing, and is counted."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    with_extra_args_support,
)
from jaxopt_mini.tree import increment
from jaxopt_mini.wrappers._conditional import update_if


class SkipNonfiniteState(NamedTuple):
    """State of :func:`skip_nonfinite`."""

    in_a_row: jax.Array  # int32[]: steps skipped since the last one taken
    skipped: jax.Array  # int32[]: steps skipped in all
    inner_state: OptState


def skip_nonfinite(
    inner: GradientTransformation, *, max_in_a_row: int | None = None
) -> GradientTransformationExtraArgs:
    """Leaves out the steps whose gradient isn't finite; parameters and inner state stay as they are.

    Args:
      inner: a transformation, with the clips: a clip before this one would spread a NaN over everything first.
      max_in_a_row: after so many skipped steps one is taken as it is, and the counting begins anew. None never takes
        one; whoever reads ``in_a_row`` in the state may end the run. (``optax.apply_if_finite`` doesn't begin anew:
        having given up once, it takes every step until a gradient is finite.)

    Returns:
      A transformation with a :class:`SkipNonfiniteState`: the state of ``inner`` and 8 bytes.

    Raises:
      ValueError: ``max_in_a_row`` is no positive integer.

    >>> from jaxopt_mini import sgd
    >>> tx = skip_nonfinite(sgd(1.0))
    >>> updates, state = tx.update({"w": jnp.float32(jnp.nan)}, tx.init({"w": jnp.float32(0.0)}))
    >>> print(updates["w"], state.in_a_row, state.skipped)
    0.0 1 1
    """
    if max_in_a_row is not None and (not isinstance(max_in_a_row, int) or max_in_a_row < 1):
        raise ValueError(f"max_in_a_row={max_in_a_row} is no number of steps: give an integer >= 1, or None")
    inner = with_extra_args_support(inner)

    def init(params):
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        take = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)], bool))
        if max_in_a_row is not None:
            take = take | (state.in_a_row >= max_in_a_row)
        new, inner_state = update_if(take, inner, updates, state.inner_state, params, extra)
        in_a_row = jnp.where(take, 0, increment(state.in_a_row))
        skipped = jnp.where(take, state.skipped, increment(state.skipped))
        return new, SkipNonfiniteState(in_a_row, skipped, inner_state)

    return GradientTransformationExtraArgs(init, update)
