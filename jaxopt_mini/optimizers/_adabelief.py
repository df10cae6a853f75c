"""AdaBelief: Adam divided by the deviation of gradients from their mean instead of their size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByBeliefState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import (
    absolute_square,
    average,
    bias_correction,
    cast_like,
    increment,
    nesterov_moment,
    widen,
    zeros_like,
)


def scale_by_belief(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-16,
    eps_root: ArrayLike = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adabelief`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its squared deviation, in [0, 1).
      eps: added outside the root.
      eps_root: added to the mean of the squares in every step.
      nesterov: use Nesterov momentum.

    Returns:
      A transformation with an ``optax.ScaleByBeliefState``, with count int32[], mu and nu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root)

    def init(params):
        return ScaleByBeliefState(count=jnp.zeros((), jnp.int32), mu=zeros_like(params), nu=zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        deviation = jax.tree.map(lambda g, m: absolute_square(widen(g) - m), updates, mu)
        nu = jax.tree.map(lambda s: s + eps_root, average(deviation, state.nu, b2))
        m = nesterov_moment(updates, mu, b1, count) if nesterov else bias_correction(mu, b1, count)
        direction = jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + eps), m, bias_correction(nu, b2, count))
        state = ScaleByBeliefState(count, cast_like(mu, state.mu), cast_like(nu, state.nu))
        return cast_like(direction, updates), state

    return transformation(init, update)


def adabelief(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-16,
    eps_root: ArrayLike = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam divided by the deviation from the mean gradient.

    Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients" (2020, arXiv
    2010.07468). :func:`adam` with another second moment::

        s <- b2 s + (1 - b2) (g - m)^2 + eps_root
        p <- p - lr m_hat / (sqrt(s_hat) + eps)

    Steps are large where the gradient is close to its prediction m, and small where it deviates. Where the gradient is
    constant, s falls to its minimum, which ``eps`` and ``eps_root`` determine.

    Notation: s is ``nu`` here.

    Departures: none from Optax; as in the authors' code, eps_root is added in every step, so that s converges to
    eps_root / (1 - b2) or more.

    Args:
      learning_rate: a number or a schedule; as for :func:`adam`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its squared deviation, in [0, 1).
      eps: added outside the root.
      eps_root: added to s in every step.
      nesterov: use Nesterov momentum.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = adabelief(0.1)
    >>> grads = jnp.array([1.0, -100.0])
    >>> print(tx.update(grads, tx.init(grads))[0].round(4))
    [-0.1111  0.1111]
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
