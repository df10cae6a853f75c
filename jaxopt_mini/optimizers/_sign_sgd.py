"""Sign SGD: every entry moves by exactly the learning rate, opposite to the sign of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    stateless,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights


def scale_by_sign() -> GradientTransformationExtraArgs:
    """Replaces each entry by its sign: -1, 0 or 1; complex entries by their direction.

    Returns:
      A transformation without state.

    >>> grads = {"w": jnp.array([3.0, -0.5, 0.0])}
    >>> print(scale_by_sign().update(grads, scale_by_sign().init(grads))[0]["w"])
    [ 1. -1.  0.]
    """
    return stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))


def sign_sgd(
    learning_rate: ScalarOrSchedule | None,
    *,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """Steps of equal size against the sign of the gradient.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (2018, arXiv 1802.04434). Descends from
    :func:`sgd`::

        p <- p - lr (sign(g) + weight_decay p)

    Only one bit of each gradient entry matters. sign(0) = 0: an entry without gradient doesn't move.

    Departures: none from Optax, which has no weight decay.

    Args:
      learning_rate: a number or a schedule; like Adam's or smaller.
      weight_decay: a number or a schedule, times the learning rate; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation without state.

    >>> tx = sign_sgd(0.1)
    >>> grads = {"w": jnp.array([5.0, -0.01])}
    >>> print(tx.update(grads, tx.init(grads))[0]["w"])
    [-0.1  0.1]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(scale_by_sign(), *decay, scale_by_learning_rate(learning_rate))
