"""LaProp: normalizes the gradient first and averages it afterwards; Adam averages first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._rmsprop import scale_by_rms
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.late_decay import decay_afterwards
from jaxopt_mini.transforms.moments import ema


def laprop(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-15,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    decay_by_rate: bool = True,
) -> GradientTransformation:
    """Adam that normalizes the gradient before averaging it.

    Ziyin, Wang, Ueda, "LaProp: Separating Momentum and Adaptivity in Adam" (2020, arXiv 2002.04839). Descends from
    :func:`adamw`::

        v <- b2 v + (1 - b2) g^2                                    v_hat = v / (1 - b2^t)
        m <- b1 m + (1 - b1) g / (sqrt(v_hat) + eps)                m_hat = m / (1 - b1^t)
        p <- p - lr (m_hat + weight_decay p)

    Every gradient is divided by the v of its own step, so that b1 may exceed b2 and a step is never longer than
    1 / sqrt(1 - b2). It equals a bias-corrected mean of the steps of a bias-corrected :func:`rmsprop`.

    Departures: the official code averages steps that are already multiplied by their learning rates, which is the same
    for a constant learning rate, and its decay is not multiplied by the learning rate: ``decay_by_rate=False``.

    Args:
      learning_rate: a number or a schedule; 4e-4 in the paper.
      b1: decay of the mean of the divided gradient, in [0, 1).
      b2: decay of the mean of the squared gradient, in [0, 1).
      eps: added outside the root.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      decay_by_rate: False is the official decay, p <- (1 - weight_decay)(p - lr m_hat).

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx = laprop(0.1, b2=0.0)
    >>> params = {"w": jnp.zeros(2)}
    >>> state = tx.init(params)
    >>> for sign in (1.0, -1.0):
    ...     updates, state = tx.update({"w": jnp.array([5.0, 0.01]) * sign}, state, params)
    ...     print([round(x, 4) for x in updates["w"].tolist()])
    [-0.1, -0.1]
    [0.0053, 0.0053]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    check_fraction(b1=b1, b2=b2)
    direction = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True), ema(b1)
    rate = scale_by_learning_rate(learning_rate)
    if decay_by_rate:
        return chain(*direction, add_decayed_weights(weight_decay, mask), rate)
    return chain(*direction, rate, decay_afterwards(1.0, weight_decay, mask))
