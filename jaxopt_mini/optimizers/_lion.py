"""Lion: the sign of a momentum, so that every entry moves by exactly the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByLionState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import average, cast_like, increment, zeros_like

MODES: dict[str, Callable[[jax.Array, ArrayLike], jax.Array]] = {
    "hard": lambda x, beta: jnp.sign(x),
    "smooth": lambda x, beta: jnp.tanh(beta * x),
    "refined": lambda x, beta: jnp.where(jnp.abs(x) < 1, x, jnp.sign(x)),
}


def scale_by_lion(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    mu_dtype: DTypeLike | None = None,
    *,
    mode: str = "hard",
    smooth_beta: ArrayLike = 1.0,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`lion`, without decay and learning rate.

    Args:
      b1: weight of the momentum in the step, in [0, 1).
      b2: decay of the momentum, in [0, 1).
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      mode: function of the momentum x in the step: "hard" is sign(x), "smooth" tanh(smooth_beta x), "refined" x
        between -1 and 1 and sign(x) elsewhere.
      smooth_beta: slope of "smooth" at zero.

    Returns:
      A transformation with an ``optax.ScaleByLionState``, with count int32[], mu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    if mode not in MODES:
        raise ValueError(f"unknown mode={mode!r}: choose from {', '.join(MODES)}")

    def init(params):
        return ScaleByLionState(count=jnp.zeros((), jnp.int32), mu=zeros_like(params, mu_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        direction = jax.tree.map(lambda x: MODES[mode](x, smooth_beta), average(updates, state.mu, b1))
        mu = cast_like(average(updates, state.mu, b2), state.mu)
        return cast_like(direction, updates), ScaleByLionState(increment(state.count), mu)

    return transformation(init, update)


def lion(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """The sign of an interpolated momentum; half Adam's state.

    Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023, arXiv 2302.06675). Descends from
    :func:`signum`::

        p <- p - lr (sign(b1 m + (1 - b1) g) + weight_decay p)
        m <- b2 m + (1 - b2) g

    The momentum has a longer memory than its weight b1 in the step, because m decays by b2 > b1. With b1 = b2 it is
    signum with an averaged momentum. sign(0) = 0: an entry that never had a gradient doesn't move.

    Departures: none; the official code applies the decay first, p <- (1 - lr weight_decay) p, which is the same.

    Args:
      learning_rate: a number or a schedule; 3 to 10 times smaller than AdamW's.
      b1: weight of the momentum in the step, in [0, 1).
      b2: decay of the momentum, in [0, 1); b1 = 0.95, b2 = 0.98 is more stable for language models.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate; 3 to 10 times AdamW's.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx = lion(0.1, weight_decay=0.5)
    >>> params = {"w": jnp.array([1.0, -2.0])}
    >>> updates, _ = tx.update({"w": jnp.array([5.0, -0.01])}, tx.init(params), params)
    >>> print(updates["w"])
    [-0.15  0.2 ]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
