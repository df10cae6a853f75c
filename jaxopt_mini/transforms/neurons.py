"""Sizes of single neurons: normalize the rows and columns of a matrix, or keep them above a share of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformationExtraArgs, Params, no_state, require_params
from jaxopt_mini.check import check_name, check_nonnegative
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.matrices import as_leaves, as_matrices, resolve_layout, wide_matrices
from jaxopt_mini.tree import absolute_square, cast_like, widen

INPUTS, OUTPUTS = -2, -1  # axes of a matrix (inputs, outputs)
TINY = 1e-30
MODES: dict[str, tuple[int, ...]] = {  # name -> the axes whose neurons are normalized one after the other
    "outputs": (OUTPUTS,),
    "inputs": (INPUTS,),
    "outputs_inputs": (OUTPUTS, INPUTS),
    "inputs_outputs": (INPUTS, OUTPUTS),
    "both": (),
    "frobenius": (),
}


def normalized(matrix: jax.Array, mode: str, eps: ArrayLike = 1e-7, power: ArrayLike = 0.5) -> jax.Array:
    """Divides each neuron's weights by a power of their sum of squares.

    Args:
      matrix: (..., inputs, outputs).
      mode: "outputs" or "inputs": the neurons of one side; "outputs_inputs", "inputs_outputs": one side after the
        other; "both": at once; "frobenius": scales the whole matrix to the norm of an orthogonal one.
      eps: added to the sums of squares.
      power: 0.5 divides by the norm.

    Returns:
      A matrix of the same shape, in at least float32.

    >>> print(normalized(jnp.array([[3.0, 0.0], [4.0, 2.0]]), "outputs"))
    [[0.6 0. ]
     [0.8 1. ]]
    """
    matrix = widen(matrix)

    def factor(axis):
        other = INPUTS if axis == OUTPUTS else OUTPUTS
        return 1 / (jnp.sum(absolute_square(matrix), other, keepdims=True) + eps) ** power

    if mode == "frobenius":
        size = jnp.sqrt(jnp.sum(absolute_square(matrix), (INPUTS, OUTPUTS), keepdims=True))
        return matrix * (min(matrix.shape[-2:]) ** 0.5 / (size + TINY))
    if mode == "both":
        return matrix * factor(OUTPUTS) * factor(INPUTS)
    for axis in MODES[mode]:
        matrix = matrix * factor(axis)
    return matrix


def normalize(
    mode: str,
    *,
    eps: ArrayLike = 1e-7,
    power: ArrayLike = 0.5,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """Applies :func:`normalized` to every matrix.

    Returns:
      A transformation whose state has no arrays.

    Raises:
      ValueError: ``mode`` is unknown, or a number is out of range.
    """
    check_name(mode, MODES, "unknown way to normalize")
    check_nonnegative(eps=eps, power=power)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        new = jax.tree.map(lambda m: normalized(m, mode, eps, power), as_matrices(updates, entries))
        return cast_like(as_leaves(new, entries, updates), updates), state

    return keep_shardings(no_state, update)


OF = ("matrix", "outputs")


def keep_above(
    share: ArrayLike,
    layout: Any | Callable[[Params], Any] | None = None,
    *,
    of: str = "matrix",
    power: ArrayLike = 1.0,
) -> GradientTransformationExtraArgs:
    """Scales up matrices whose norm is below ``share`` times that of their weights.

    Args:
      share: smallest norm relative to the weights'.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.
      of: "matrix", or "outputs", each output neuron on its own.
      power: power of the factor.

    Returns:
      A transformation whose state has no arrays.
    """
    check_nonnegative(share=share, power=power)
    check_name(of, OF, "unknown part to keep above a share")
    axes = (INPUTS, OUTPUTS) if of == "matrix" else INPUTS

    def size(matrix):
        return jnp.sqrt(jnp.sum(absolute_square(matrix), axes, keepdims=True))

    def one(u, p):
        own = size(u)
        return u * jnp.maximum(1.0, share * size(p) / jnp.where(own > 0, own, jnp.inf)) ** power

    def update(updates, state, params=None, **extra_args):
        del extra_args
        entries = resolve_layout(layout, require_params(params, "a floor for the update"))
        matrices = wide_matrices(entries, updates, params)
        return cast_like(as_leaves(jax.tree.map(one, *matrices), entries, updates), updates), state

    return keep_shardings(no_state, update)
