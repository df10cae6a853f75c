"""CAME: Adafactor with momentum, scaled by a confidence: how well updates agree with their momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Updates,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.matrices import unzip
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.clip import clip_by_block_rms
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import absolute_square, average, cast_like, mean, refuse_integers, widen, zeros_like, zeros_of


class ScaleByCameState(NamedTuple):
    """State of :func:`scale_by_came`."""

    mu: Updates  # like the parameters
    nu: tuple[Updates, Updates]  # mean of g^2, in at least float32, see :func:`factored`
    doubt: tuple[Updates, Updates]  # mean of (u - m)^2 of matrices, likewise; () for vectors


def is_matrix(entry: ParamLayout) -> bool:
    """Whether a leaf has both input and output axes."""
    return bool(entry.inputs and entry.outputs)


def factored(squares: Updates, layout: Any) -> tuple[Updates, Updates]:
    """Two trees with the means of each matrix: one number per input, one per output; the other axes have length 1.

    Vectors are in the first tree, and have an array of shape () in the second.
    """

    def one(leaf, entry):
        if not is_matrix(entry):
            return leaf, jnp.zeros((), leaf.dtype)
        return mean(leaf, entry.outputs, keepdims=True), mean(leaf, entry.inputs, keepdims=True)

    rows, columns = unzip(jax.tree.map(one, squares, layout), layout)
    return rows, columns


def of_matrices(tree: Updates, layout: Any) -> Updates:
    """The tree with arrays of shape () in place of vectors."""
    return jax.tree.map(lambda leaf, entry: leaf if is_matrix(entry) else jnp.zeros((), leaf.dtype), tree, layout)


def inverse_root(entry: ParamLayout, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """1 / sqrt of the array that was factored, as the rank-one product that the means determine."""
    if not is_matrix(entry):
        return jax.lax.rsqrt(rows)
    whole = jnp.mean(rows, entry.inputs, keepdims=True)
    # The product of two roots: that of the means themselves could be too small for a float32.
    return jax.lax.rsqrt(rows / whole) * jax.lax.rsqrt(columns)


def scale_by_came(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ArrayLike = 0.9999,
    eps: ArrayLike = 1e-30,
    doubt_eps: ArrayLike = 1e-16,
    clip_threshold: ArrayLike = 1.0,
    mu_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`came`, without decay and learning rate.

    Args:
      b1: see :func:`came`, like the other arguments.
      b2: decay of the mean of the squared gradient, in [0, 1).
      b3: decay of the mean of the squared deviation, in [0, 1).
      eps: added to the squared gradient.
      doubt_eps: added to the squared deviation.
      clip_threshold: largest root mean square of u.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with a :class:`ScaleByCameState`.
    """
    check_fraction(b1=b1, b2=b2, b3=b3)
    check_nonnegative(eps=eps, doubt_eps=doubt_eps)
    clip = clip_by_block_rms(clip_threshold, layout=layout)

    def init(params):
        refuse_integers(params)
        entries = resolve(layout, params)
        squares = zeros_of(lambda tree: jax.tree.map(absolute_square, tree), params)
        nu = zeros_of(lambda tree: factored(tree, entries), squares)
        doubt = zeros_of(lambda tree: factored(of_matrices(tree, entries), entries), squares)
        return ScaleByCameState(zeros_like(params, mu_dtype), nu, doubt)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve(layout, updates)
        nu = average(factored(jax.tree.map(lambda g: absolute_square(g) + eps, updates), entries), state.nu, b2)
        u = jax.tree.map(lambda g, entry, *means: widen(g) * inverse_root(entry, *means), updates, entries, *nu)
        u, _ = clip.update(u, clip.init(u))
        mu = average(u, state.mu, b1)
        deviations = jax.tree.map(lambda m, u: absolute_square(u - m) + doubt_eps, mu, u)
        doubt = average(factored(of_matrices(deviations, entries), entries), state.doubt, b3)

        def confident(m, entry, *means):
            return m * inverse_root(entry, *means) if is_matrix(entry) else m

        direction = jax.tree.map(confident, mu, entries, *doubt)
        return cast_like(direction, updates), ScaleByCameState(cast_like(mu, state.mu), nu, doubt)

    return keep_shardings(init, update)


def came(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ArrayLike = 0.9999,
    eps: ArrayLike = 1e-30,
    doubt_eps: ArrayLike = 1e-16,
    clip_threshold: ArrayLike = 1.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adafactor with momentum and confidence-scaled steps.

    Luo et al., "CAME: Confidence-guided Adaptive Memory Efficient Optimization" (2023, arXiv 2307.02047). Descends from
    :func:`adafactor`::

        v <- b2 v + (1 - b2) (g^2 + eps)              u = g / sqrt(v), clipped to a root mean square of clip_threshold
        m <- b1 m + (1 - b1) u
        s <- b3 s + (1 - b3) ((u - m)^2 + doubt_eps)
        p <- p - lr (m / sqrt(s) + weight_decay p)

    As in Adafactor, only the row and column means of v and s are stored: v_ij = row_i column_j / mean. Where u deviates
    from its mean m, s is large and the step small. A vector stores the full v, has no s, and moves by lr m.

    There is no bias correction: s starts at 0 and rises so slowly that step t of a matrix is 1 / sqrt(1 - b3^t) times
    too long, 100 times in the first step. So the learning rate is much smaller than AdamW's.

    Departures: the official code factors the last two axes of every leaf with two or more; here the layout names the
    input and output axes. ``eps`` and ``doubt_eps`` are the pair ``eps`` of the official code.

    Args:
      learning_rate: a number or a schedule; 2e-4 is the paper's.
      b1: decay of the mean of u, in [0, 1).
      b2: decay of the mean of the squared gradient, in [0, 1).
      b3: decay of the mean of the squared deviation, in [0, 1).
      eps: added to the squared gradient, > 0.
      doubt_eps: added to the squared deviation, > 0.
      clip_threshold: largest root mean square of u.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter, and 8 per row and column of a matrix.

    >>> tx = came(0.001)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[1.0, 2.0], [3.0, 6.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(4))
    [[-0.0111 -0.0111]
     [-0.0111 -0.0111]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, clip_threshold=clip_threshold)
    return chain(
        scale_by_came(b1, b2, b3, eps, doubt_eps, clip_threshold, mu_dtype, layout),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
