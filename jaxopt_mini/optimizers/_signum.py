"""Signum: sign SGD along the moving average of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import TraceState

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, schedule_value, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._sign_sgd import scale_by_sign
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.moments import ema, trace
from jaxopt_mini.tree import cast_like, widen, zeros_like


def signum(
    learning_rate: ScalarOrSchedule | None,
    beta: ArrayLike = 0.9,
    accumulator_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    dampening: ArrayLike | None = None,
    from_parameters: bool = False,
    weight_decay: ScalarOrSchedule | None = None,
    mask: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """Sign SGD with momentum.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (2018, arXiv 1802.04434). Descends from
    :func:`sign_sgd`::

        m <- beta m + (1 - beta) g
        p <- p - lr (sign(m) + weight_decay p)         nesterov: sign(beta m + (1 - beta) g)

    An average and a sum, m <- beta m + g, have the same sign and give the same steps.

    Departures: none from Optax, which has no decay and no ``nesterov``. A well-known implementation for language
    models (epfml/llm-optimizer-benchmark) initializes m, as a sum with ``dampening``, with the parameters after their
    first decay, which pulls them towards zero until this term has decayed: ``from_parameters=True``.

    Args:
      learning_rate: a number or a schedule; 3 to 10 times smaller than AdamW's.
      beta: decay of the average, in [0, 1); 0.95 for language models.
      accumulator_dtype: dtype that m is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum; m is then stored as a sum.
      dampening: m is a sum, m <- beta m + (1 - dampening) g, which from m = 0 changes only the step of ``nesterov``;
        None is an average.
      from_parameters: start m from the parameters.
      weight_decay: a number or a schedule, times the learning rate; None disables it.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.

    Returns:
      A transformation with an ``optax.EmaState``, with ``nesterov`` an ``optax.TraceState``; 4 bytes of state a float32
      parameter.

    >>> import jax.numpy as jnp
    >>> tx = signum(0.1)
    >>> state = tx.init(jnp.float32(0.0))
    >>> for grad in (2.0, -1.0, -1.0):
    ...     updates, state = tx.update(jnp.float32(grad), state)
    ...     print(updates)
    -0.1
    -0.1
    0.1
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    check_fraction(beta=beta)
    check_fraction(dampening=dampening)
    if dampening is not None or from_parameters:
        first = [schedule_value(value or 0.0, jnp.int32(0)) for value in (learning_rate, weight_decay)]
        start = 1 - first[0] * first[1] if from_parameters else 0.0
        memory = _damped(beta, dampening or 0.0, nesterov, start, accumulator_dtype)
    else:
        memory = trace(beta, True, accumulator_dtype) if nesterov else ema(beta, False, accumulator_dtype)
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(memory, scale_by_sign(), *decay, scale_by_learning_rate(learning_rate))


def _damped(beta, dampening, nesterov, start, dtype):
    """The sum ``m <- beta m + (1 - dampening) g``, from ``start`` times the parameters."""

    def init(params):
        zeros = zeros_like(params, dtype)
        return TraceState(jax.tree.map(lambda p, z: (start * widen(p)).astype(z.dtype), params, zeros))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        m = jax.tree.map(lambda g, m: beta * widen(m) + (1 - dampening) * widen(g), updates, state.trace)
        new = jax.tree.map(lambda g, m: widen(g) + beta * m, updates, m) if nesterov else m
        return cast_like(new, updates), TraceState(cast_like(m, state.trace))

    return transformation(init, update)
