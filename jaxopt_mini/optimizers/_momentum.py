"""Momentum as an average: SGD along the moving average of the gradient."""

from __future__ import annotations

from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, ScalarOrSchedule
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.moments import ema


def momentum(
    learning_rate: ScalarOrSchedule,
    *,
    decay: ArrayLike = 0.9,
    debias: bool = False,
    accumulator_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Descent along a moving average of the gradient.

    Polyak, "Some methods of speeding up the convergence of iteration methods" (1964), in the form of an average.
    Descends from :func:`sgd`::

        v <- decay v + (1 - decay) g
        p <- p - lr v

    It is :func:`sgd` with ``momentum=decay`` and the learning rate lr (1 - decay): with an average the step size
    doesn't depend on ``decay``; with a sum it is 1 / (1 - decay) times larger. torch's ``SGD(momentum=b,
    dampening=b)``, here ``sgd(lr, momentum=b, dampening=b)``, differs: its average starts from the full first gradient.

    Args:
      learning_rate: a number or a schedule; 1 / (1 - decay) times that of :func:`sgd`.
      decay: decay of the average, in [0, 1).
      debias: divide by 1 - decay^t, so that the first step is the full gradient instead of 1 - decay times it.
      accumulator_dtype: dtype that the average is stored in; None uses each parameter's dtype.

    Returns:
      A transformation with an ``optax.EmaState``; 4 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx, params = momentum(0.1), {"w": jnp.zeros(1)}
    >>> updates, state = tx.update({"w": jnp.ones(1)}, tx.init(params))
    >>> print(updates["w"], tx.update({"w": jnp.ones(1)}, state)[0]["w"])
    [-0.01] [-0.019]
    """
    check_nonnegative(learning_rate=learning_rate)
    check_fraction(decay=decay)
    return chain(ema(decay, debias, accumulator_dtype), scale_by_learning_rate(learning_rate))
