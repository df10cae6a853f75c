"""NAdamW: AdamW with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights


def nadamw(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[Params], Any] | None = None,
    *,
    nesterov: bool = True,
    one_correction: bool = False,
) -> GradientTransformation:
    """AdamW with Nesterov momentum.

    Dozat, "Incorporating Nesterov Momentum into Adam" (2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ). Beyond
    :func:`adamw`, the numerator weights the gradient as the next step would::

        m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)

    Departures: the default is Optax's ``nadamw``, which corrects the two terms separately, as above.
    ``one_correction=True`` is AlgoPerf's: (b1 m + (1 - b1) g) / (1 - b1^t), whose first step is 1 + b1 times AdamW's.
    torch's ``NAdam`` differs: its b1 changes from step to step. Dozat's paper multiplies v_hat by b2, which no
    implementation does.

    Args:
      learning_rate: a number or a schedule; as for :func:`adamw`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      nesterov: False is :func:`adamw`.
      one_correction: with ``nesterov``, divide both terms of the numerator by 1 - b1^t.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> params = grads = jnp.float32(1.0)
    >>> for tx in (nadamw(0.1, weight_decay=0.0), nadamw(0.1, weight_decay=0.0, one_correction=True)):
    ...     updates, _ = tx.update(grads, tx.init(params), params)
    ...     print(round(updates.item(), 4))
    -0.1474
    -0.19
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, one_correction=one_correction),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
