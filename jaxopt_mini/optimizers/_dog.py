"""DoG and L-DoG: SGD whose learning rate is the distance from the start over the root of the summed squared norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.contrib import DoGState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    identity,
    no_state,
    require_params,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import resolve
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.trust import tensor_norm
from jaxopt_mini.tree import cast_like, copied, difference, evaluate, norm, scalar_dtype, times, widen

FIRST_DISTANCE: dict[str, Callable[..., Any]] = {
    "distance": lambda value, size: value,
    "heuristic": lambda value, size: value * (1 + size),
    "learning_rate": lambda value, size: 0.0,
}


def scale_by_dog(
    init_step: tuple[str, ArrayLike] = ("heuristic", 1e-6),
    eps: ArrayLike = 1e-8,
    *,
    per_tensor: bool = False,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`dog`, without the factor ``learning_rate``.

    Args:
      init_step: see :func:`dog`.
      eps: added to the sum of the squares.
      per_tensor: one distance and one sum for each tensor.
      layout: see :func:`dog`.

    Returns:
      A transformation with an ``optax.contrib.DoGState``; with ``per_tensor`` it has trees in place of its two scalars.
    """
    kind, value = init_step
    if kind not in FIRST_DISTANCE:
        raise ValueError(f"unknown init_step={init_step!r}: give a pair that starts with {', '.join(FIRST_DISTANCE)}")
    check_nonnegative(init_step=value, eps=eps)

    def norms(tree):
        """One norm, or one for each tensor and layer, with axes of length 1."""
        return jax.tree.map(tensor_norm, tree, resolve(layout, tree)) if per_tensor else norm(tree)

    def init(params):
        no_state(params)  # rejects integers
        resolve(layout, params)
        dtype = scalar_dtype(params)

        def start(tree):
            first = lambda size: jnp.full_like(size, FIRST_DISTANCE[kind](value, size), dtype)
            sizes = norms(tree)
            return jax.tree.map(first, sizes), jax.tree.map(lambda size: jnp.zeros_like(size, dtype), sizes)

        return DoGState(jnp.asarray(True), copied(params), *evaluate(start, params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "dog")
        moved = norms(difference(params, state.init_params))
        distance = jax.tree.map(lambda old, new: jnp.maximum(widen(old), new), state.max_dist, moved)
        squares = jax.tree.map(jnp.square, norms(updates))
        total = jax.tree.map(lambda old, new: widen(old) + new, state.sum_sq_norm_grads, squares)

        def rate(distance, total):
            found = distance / jnp.sqrt(total + eps)
            return jnp.where(state.is_init_step, value, found) if kind == "learning_rate" else found

        rates = jax.tree.map(rate, distance, total)
        rates = rates if per_tensor else jax.tree.map(lambda _: rates, updates)
        new = DoGState(jnp.asarray(False), state.init_params, distance, total)
        return jax.tree.map(times, updates, rates), cast_like(new, state)

    return keep_shardings(init, update)


def dog(
    learning_rate: ScalarOrSchedule | None = 1.0,
    init_step: tuple[str, ArrayLike] = ("heuristic", 1e-6),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    per_tensor: bool = False,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """SGD with a learning rate from the distance traveled.

    Ivgi, Hinder, Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule" (2023, arXiv
    2302.12022). Descends from :func:`sgd`::

        r <- max(r, |p - p0|)
        G <- G + |g|^2
        p <- p - lr r / sqrt(G + eps) g

    The norms are those of the whole tree. L-DoG, in the same paper and repository, is ``per_tensor=True``: r, G and so
    the learning rate are those of each tensor. Evaluate with an average of the parameters; the authors' is
    ``average_params(dog(), window=None, power=8.0)``.

    Departures: weight decay is the gradient of an L2 penalty, as in the official code and Optax. r and G are at least
    float32; Optax's are bfloat16 for bfloat16 parameters, and G then stops growing after a few hundred steps.

    Args:
      learning_rate: factor of the estimated learning rate, a number or a schedule.
      init_step: how to choose the first step: ("heuristic", x) uses r = x (1 + |p0|), with x = 1e-6, or 1e-4 for a
        model with batch normalization; ("distance", x) uses r = x; ("learning_rate", x) uses x as the first learning
        rate.
      eps: added to G.
      weight_decay: added to the gradient, times the parameter; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      per_tensor: a learning rate for each tensor, in a stack for each layer.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names stacked axes; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or ``init_step`` is none of the three.

    >>> tx = dog(init_step=("distance", 0.1))
    >>> params = grads = {"w": jnp.array([3.0, 4.0])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> print(updates["w"].round(4))
    [-0.06 -0.08]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps, per_tensor=per_tensor, layout=layout),
        scale_by_learning_rate(learning_rate),
    )
