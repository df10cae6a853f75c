"""LAMB: AdamW with updates scaled to the norm of each tensor, for very large batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.trust import scale_by_trust_ratio
from jaxopt_mini.tree import MAX_COUNT, increment


def _uncorrected(adam: Any) -> GradientTransformationExtraArgs:
    """The same without bias correction, which equals the correction after infinitely many steps."""

    def update(updates, state, params=None, **extra_args):
        late = state._replace(count=jnp.full_like(state.count, MAX_COUNT))
        direction, new = adam.update(updates, late, params, **extra_args)
        return direction, new._replace(count=increment(state.count))

    return transformation(adam.init, update)


def lamb(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    bias_correction: bool = True,
    max_norm: ArrayLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """AdamW with steps scaled per tensor, for large batches.

    You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (2020, arXiv 1904.00962).
    Descends from :func:`adamw`. For each tensor p (per layer in a stack)::

        u = m_hat / (sqrt(v_hat) + eps) + weight_decay p
        p <- p - lr (|p| / |u|) u

    so that every tensor turns by about the same angle. If the tensor or the update has norm 0, the ratio is 1.

    Departures from Optax: Optax treats a stack of layers as one tensor. A common implementation, written for BERT, has
    no bias correction and bounds |p| by 10: ``lamb(lr, bias_correction=False, max_norm=10.0)``; its
    ``bias_correction=True`` multiplies the learning rate instead, equivalent to the schedule
    lr sqrt(1 - b2^t) / (1 - b1^t).

    Args:
      learning_rate: a number or a schedule: the norm of a step relative to the weights; 1e-3 to 1e-2.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      weight_decay: a number or a schedule; changes the direction of the update, not its norm.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      bias_correction: divide the moments by 1 - b^t.
      max_norm: upper bound of |p|; None is unbounded.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx, params = lamb(0.1), {"w": jnp.array([3.0, 4.0])}
    >>> updates, _ = tx.update({"w": jnp.array([1.0, -1.0])}, tx.init(params), params)
    >>> print(updates["w"].round(4))
    [-0.3536  0.3536]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    adam = scale_by_adam(b1, b2, eps, eps_root)
    return chain(
        adam if bias_correction else _uncorrected(adam),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(max_norm=max_norm, layout=layout),
        scale_by_learning_rate(learning_rate),
    )
