"""Schedule-free SGD: SGD with averaged iterates in place of momentum and decay of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, identity
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.wrappers._schedule_free import schedule_free, warmed_up


def schedule_free_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    warmup_steps: int | None = None,
    b1: ArrayLike = 0.9,
    weight_decay: ScalarOrSchedule | None = None,
    weight_lr_power: ArrayLike = 2.0,
    state_dtype: DTypeLike | None = None,
    *,
    mask: Any | Callable[[Params], Any] | None = None,
    r: ArrayLike = 0.0,
    rate_ahead: bool = True,
) -> GradientTransformation:
    """SGD with averaging in place of a schedule.

    Defazio et al., "The Road Less Scheduled" (2024, arXiv 2405.15682). Descends from :func:`sgd`::

        z <- z - lr (g + weight_decay y)          g is the gradient at y, the parameters
        x <- (1 - c) x + c z
        y <- (1 - b1) z + b1 x

    Evaluate with x: ``states.evaluation_params(state, params)``.

    Departures: none from Optax, whose warm-up starts with learning rate 0 and weights each step by the learning rate of
    the next; the authors' code uses lr k / warmup_steps in step k = 1, 2, ... for both: ``rate_ahead=False``.

    Args:
      learning_rate: a number, or a schedule that doesn't decay; 10 to 50 times that of SGD with momentum.
      warmup_steps: length of a linear warm-up; None disables it.
      b1: weight of the average in y, in (0, 1); 0.9 to 0.98.
      weight_decay: a number or a schedule, times the learning rate and y; None disables it.
      weight_lr_power: power of the learning rate in the weight of a step.
      state_dtype: dtype that z is stored in; None uses each parameter's dtype.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      r: power of the step in its weight.
      rate_ahead: weight each step by the learning rate of the next, as in Optax.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx = schedule_free_sgd(0.5, b1=0.5)
    >>> grads = jnp.float32(1.0)
    >>> params = jnp.float32(0.0)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(grads, state, params)
    ...     params = params + updates
    ...     print(round(params.item(), 4))
    -0.5
    -0.875
    -1.25
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    rate = warmed_up(learning_rate, warmup_steps, rate_ahead)
    sgd = chain(identity(), scale_by_learning_rate(rate))
    how = {"b1": b1, "weight_lr_power": weight_lr_power, "state_dtype": state_dtype, "r": r, "rate_ahead": rate_ahead}
    base = sgd if weight_decay is None else chain(add_decayed_weights(weight_decay, mask), sgd)
    return schedule_free(base, rate, **how)
