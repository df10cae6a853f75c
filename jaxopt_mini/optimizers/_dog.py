"""DoG: SGD whose learning rate is the distance from the start over the root of the summed squared gradient norms."""

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
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import cast_like, copied, distance_between, evaluate, norm, scalar_dtype, times, widen

FIRST_DISTANCE: dict[str, Callable[..., Any]] = {
    "distance": lambda value, params: value,
    "heuristic": lambda value, params: value * (1 + norm(params)),
    "learning_rate": lambda value, params: 0.0,
}


def scale_by_dog(
    init_step: tuple[str, ArrayLike] = ("heuristic", 1e-6), eps: ArrayLike = 1e-8
) -> GradientTransformationExtraArgs:
    """The direction of :func:`dog`, without the factor ``learning_rate``.

    Args:
      init_step: see :func:`dog`.
      eps: added to the sum of the squares.

    Returns:
      A transformation with an ``optax.contrib.DoGState``.
    """
    kind, value = init_step
    if kind not in FIRST_DISTANCE:
        raise ValueError(f"unknown init_step={init_step!r}: give a pair that starts with {', '.join(FIRST_DISTANCE)}")
    check_nonnegative(init_step=value, eps=eps)

    def init(params):
        no_state(params)  # rejects integers
        dtype = scalar_dtype(params)
        first = evaluate(lambda tree: jnp.array(FIRST_DISTANCE[kind](value, tree)).astype(dtype), params)
        return DoGState(jnp.asarray(True), copied(params), first, jnp.zeros((), dtype))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = require_params(params, "dog")
        distance = jnp.maximum(widen(state.max_dist), distance_between(state.init_params, params))
        total = widen(state.sum_sq_norm_grads) + jnp.square(norm(updates))
        rate = distance / jnp.sqrt(total + eps)
        if kind == "learning_rate":
            rate = jnp.where(state.is_init_step, value, rate)
        new = DoGState(jnp.asarray(False), state.init_params, distance, total)
        return jax.tree.map(lambda g: times(g, rate), updates), cast_like(new, state)

    return transformation(init, update)


def dog(
    learning_rate: ScalarOrSchedule | None = 1.0,
    init_step: tuple[str, ArrayLike] = ("heuristic", 1e-6),
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """SGD with a learning rate from the distance traveled.

    Ivgi, Hinder, Carmon, "DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule" (2023, arXiv
    2302.12022), with one learning rate for the whole tree. Descends from :func:`sgd`::

        r <- max(r, |p - p0|)
        G <- G + |g|^2
        p <- p - lr r / sqrt(G + eps) g

    Evaluate with an average of the parameters; the authors' is ``average_params(dog(), window=None, power=8.0)``.

    Departures: none from Optax; weight decay is the gradient of an L2 penalty, as in the official code. With bfloat16
    parameters r and G are bfloat16, as in Optax; G then stops growing after a few hundred steps.

    Args:
      learning_rate: factor of the estimated learning rate, a number or a schedule.
      init_step: how to choose the first step: ("heuristic", x) uses r = x (1 + |p0|), with x = 1e-6, or 1e-4 for a
        model with batch normalization; ("distance", x) uses r = x; ("learning_rate", x) uses x as the first learning
        rate.
      eps: added to G.
      weight_decay: added to the gradient, times the parameter; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

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
        scale_by_dog(init_step, eps),
        scale_by_learning_rate(learning_rate),
    )
