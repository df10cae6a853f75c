"""Schedule-free RAdam: averaged iterates in place of momentum and schedule, and RAdam's warm-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, schedule_value, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._radam import rectification
from jaxopt_mini.optimizers._rmsprop import scale_by_rms
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import increment, select
from jaxopt_mini.wrappers._schedule_free import schedule_free


def schedule_free_radam(
    learning_rate: ScalarOrSchedule = 0.0025,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    r: ArrayLike = 0.0,
    silent: bool = True,
    state_dtype: DTypeLike | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """AdamW with averaging in place of a schedule, and a warm-up that needs no length.

    Defazio et al., "The Road Less Scheduled" (2024, arXiv 2405.15682), in the authors' repository. Descends from
    :func:`schedule_free_adamw`; the learning rate is lr r_t with r_t, rho_t of :func:`radam`, and 0 while rho_t <= 4::

        v <- b2 v + (1 - b2) g^2                  g is the gradient at y, the parameters
        z <- z - lr r_t (g / (sqrt(v_hat) + eps) + weight_decay y)
        x <- (1 - c) x + c z
        y <- (1 - b1) z + b1 x

    Evaluate with x: ``states.evaluation_params(state, params)``.

    Args:
      learning_rate: a number, or a schedule that doesn't decay; 1 to 10 times AdamW's.
      b1: weight of the average in y, in (0, 1); 0.9 to 0.98.
      b2: decay of the mean of the squared gradient, in [0, 1).
      eps: added outside the root.
      weight_decay: a number or a schedule, times the learning rate and y.
      weight_lr_power: power of the learning rate in the weight of a step.
      r: power of the step in its weight.
      silent: take no steps while rho_t <= 4; False takes SGD's, with learning rate lr.
      state_dtype: dtype that z is stored in; None uses each parameter's dtype.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = schedule_free_radam(0.5, b1=0.5)
    >>> params = grads = jnp.float32(1.0)
    >>> state = tx.init(params)
    >>> for step in range(1, 7):
    ...     updates, state = tx.update(grads, state, params)
    ...     params = params + updates
    ...     if step > 4:
    ...         print(step, round(params.item(), 4))
    5 0.9913
    6 0.9804
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    check_fraction(b2=b2)
    rms = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)

    def update(updates, state, params=None, **extra_args):
        adapted, new = rms.update(updates, state, params, **extra_args)
        rho, _, _ = rectification(b2, increment(state.count))
        return select(rho > 4, adapted, updates), new

    def rate(count: Any) -> jax.Array:
        rho, size, _ = rectification(b2, increment(count))
        return jnp.asarray(schedule_value(learning_rate, count)) * jnp.where(rho > 4, size, 0.0 if silent else 1.0)

    base = chain(
        transformation(rms.init, update), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(rate)
    )
    how = {"weight_lr_power": weight_lr_power, "state_dtype": state_dtype, "r": r}
    return schedule_free(base, rate, b1, rate_ahead=False, **how)
