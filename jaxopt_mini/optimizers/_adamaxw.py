"""AdaMaxW: AdaMax with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adamax import scale_by_adamax
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights


def adamaxw(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """AdaMax with decoupled weight decay.

    Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (2019, arXiv 1711.05101). Beyond :func:`adamax`::

        p <- p - lr (m_hat / u + weight_decay p)

    Departures: none from Optax.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamax`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the largest gradient, in [0, 1).
      eps: added to the gradient's absolute value.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx, params = adamaxw(0.1, weight_decay=0.5), jnp.float32(-2.0)
    >>> updates, _ = tx.update(jnp.float32(-0.01), tx.init(params), params)
    >>> print(round(updates.item(), 4))
    0.2
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
