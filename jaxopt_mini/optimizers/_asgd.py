"""ASGD: averaged SGD with a decaying learning rate."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
)
from jaxopt_mini.check import check_nonnegative
from jaxopt_mini.tree import cast_like, increment, widen, zeros_like


class AveragedState(NamedTuple):
    """State of :func:`asgd`."""

    count: jax.Array  # int32[]: completed steps
    average: Params  # the parameters to evaluate with


def asgd(
    learning_rate: ScalarOrSchedule,
    *,
    lambd: ArrayLike = 1e-4,
    alpha: ArrayLike = 0.75,
    t0: ArrayLike = 1e6,
) -> GradientTransformation:
    """SGD that also averages its iterates.

    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging" (1992, dl.acm.org/citation.cfm?id=131098),
    in torch's form; t counts from 0. Descends from :func:`sgd`::

        eta = lr / (1 + lambd lr t)^alpha
        p <- p - eta (g + lambd p)
        a <- a + (p - a) / max(1, t - t0)

    a is in the state, ``states.get(state, "average")``: a copy of p until step t0, then the mean of the iterates. The
    iterates fluctuate around the minimum; their mean is closer to it.

    Notation: a is ``ax``, eta ``eta`` in torch.

    Departures: none from torch. Its ``weight_decay=w``, an L2 penalty, is ``chain(add_decayed_weights(w), asgd(...))``.

    Args:
      learning_rate: a number or a schedule; as for :func:`sgd`.
      lambd: speed of the learning-rate decay, and strength of an L2 penalty.
      alpha: power of the learning-rate decay.
      t0: first step of the mean.

    Returns:
      A transformation with an :class:`AveragedState`; 4 bytes of state per float32 parameter.

    >>> tx, params = asgd(0.5, lambd=0.0, t0=0.0), jnp.float32(1.0)
    >>> state = tx.init(params)
    >>> for grad in (1.0, 1.0, -1.0):
    ...     updates, state = tx.update(jnp.float32(grad), state, params)
    ...     params = params + updates
    >>> print(params, state.average)
    0.5 0.25
    """
    check_nonnegative(learning_rate=learning_rate, lambd=lambd, alpha=alpha, t0=t0)

    def init(params):
        return AveragedState(jnp.zeros((), jnp.int32), zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        t, rate = state.count.astype(jnp.float32), schedule_value(learning_rate, state.count)
        eta, share = rate / (1 + lambd * rate * t) ** alpha, 1 / jnp.maximum(1, t - t0)
        params = require_params(params, "asgd")
        new = jax.tree.map(lambda g, p: -eta * (widen(g) + lambd * widen(p)), updates, params)
        mean = jax.tree.map(lambda u, p, a: widen(a) + share * (widen(p) + u - widen(a)), new, params, state.average)
        return cast_like(new, updates), AveragedState(increment(state.count), cast_like(mean, state.average))

    return transformation(init, update)
