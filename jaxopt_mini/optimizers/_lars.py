"""LARS: SGD with momentum whose step in each tensor is proportional to the tensor's norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain, masked
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.moments import trace
from jaxopt_mini.transforms.trust import scale_by_trust_ratio


def lars(
    learning_rate: ScalarOrSchedule | None,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] = True,
    trust_coefficient: ArrayLike = 0.001,
    eps: ArrayLike = 0.0,
    trust_ratio_mask: Any | Callable[[Params], Any] = True,
    momentum: ArrayLike = 0.9,
    nesterov: bool = False,
    *,
    layout: Any | None = None,
) -> GradientTransformation:
    """SGD with steps scaled per tensor, for large batches.

    You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks" (2017, arXiv 1708.03888). Descends from
    :func:`sgd`. For each tensor p (per layer in a stack)::

        u = g + weight_decay p
        m <- momentum m + lr trust_coefficient (|p| / (|u| + eps)) u
        p <- p - m                              nesterov: one step ahead

    Notation: ``trust_coefficient`` is the paper's eta.

    Departures from Optax: Optax treats a stack of layers as one tensor. The paper divides by |g| + weight_decay |p|, an
    upper bound of |u|.

    Args:
      learning_rate: a number or a schedule; 1 to 30, as the coefficient is small.
      weight_decay: a number or a schedule: an L2 penalty, added to the gradient.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.
      trust_coefficient: norm of a step relative to the tensor, before the learning rate.
      eps: added to the norm of u.
      trust_ratio_mask: leaves to scale by the ratio; biases and norm scales are often excluded.
      momentum: decay of the sum, in [0, 1).
      nesterov: use Nesterov momentum.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx, params = lars(1.0, trust_coefficient=0.1), {"w": jnp.array([3.0, 4.0])}
    >>> updates, _ = tx.update({"w": jnp.array([0.0, 0.01])}, tx.init(params), params)
    >>> print(updates["w"])
    [ 0.  -0.5]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    check_fraction(momentum=momentum)
    ratio = scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps, layout=layout)
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(ratio, trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )
