"""SGD: stochastic gradient descent, with or without momentum."""

from __future__ import annotations

from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, ScalarOrSchedule, identity
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.moments import trace


def sgd(
    learning_rate: ScalarOrSchedule | None,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
    *,
    dampening: ArrayLike | None = None,
) -> GradientTransformation:
    """Gradient descent, with optional momentum.

    Robbins, Monro, "A Stochastic Approximation Method" (1951); Sutskever et al., "On the importance of initialization
    and momentum in deep learning" (2013, proceedings.mlr.press/v28/sutskever13.html)::

        m <- momentum m + g
        p <- p - lr m                   nesterov: p - lr (momentum m + g)

    Departures: none from Optax or torch, whose ``SGD`` has the same keywords. torch's ``weight_decay=w``, an L2
    penalty, is ``chain(add_decayed_weights(w), sgd(...))``. For momentum as an average, m <- b m + (1 - b) g, see
    :func:`momentum`.

    Args:
      learning_rate: a number or a schedule; 1e-2 to 1, with momentum (1 - momentum) times that. As in Optax, None in
        this and every other optimizer returns the direction itself, to be scaled by a later link.
      momentum: decay of the sum, in [0, 1); 0.9 is usual; None disables it and needs no state.
      nesterov: use Nesterov momentum.
      accumulator_dtype: dtype that the sum is stored in; None uses each parameter's dtype.
      dampening: as in torch, multiplies every gradient after the first by 1 - dampening; None disables it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter with momentum, none without.

    Raises:
      ValueError: ``dampening`` without ``momentum`` or with ``nesterov``.

    >>> import jax.numpy as jnp
    >>> params = grads = {"w": jnp.ones(1)}
    >>> for tx in (sgd(0.1), sgd(0.1, momentum=0.9), sgd(0.1, momentum=0.9, dampening=0.5)):
    ...     updates, state = tx.update(grads, tx.init(params))
    ...     print(updates["w"], tx.update(grads, state)[0]["w"])
    [-0.1] [-0.1]
    [-0.1] [-0.19]
    [-0.1] [-0.14]
    """
    check_nonnegative(learning_rate=learning_rate)
    check_fraction(momentum=momentum, dampening=dampening)
    if dampening is not None and (momentum is None or nesterov):
        raise ValueError(
            f"dampening={dampening} needs momentum without nesterov, got momentum={momentum}, nesterov={nesterov}"
        )
    if momentum is None:
        sums = identity()
    else:
        sums = trace(momentum, nesterov, accumulator_dtype, dampening=dampening)
    return chain(sums, scale_by_learning_rate(learning_rate))
