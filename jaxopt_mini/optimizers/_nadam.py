"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    Updates,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, widen, zeros_like


class ScaleByNadamState(NamedTuple):
    """State of :func:`scale_by_nadam` with a momentum schedule."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # like the parameters
    product: jax.Array  # float32[]: b1_1 b1_2 ... b1_t


def scale_by_nadam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    momentum_decay: ArrayLike | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`nadam`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      momentum_decay: see :func:`nadam`.

    Returns:
      :func:`~jaxopt_mini.scale_by_adam` with ``nesterov``, or with a ``momentum_decay`` a transformation with a
      :class:`ScaleByNadamState`.
    """
    if momentum_decay is None:
        return scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=True)
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root, momentum_decay=momentum_decay)

    def share(count):
        return b1 * (1 - 0.5 * 0.96 ** (count.astype(jnp.float32) * momentum_decay))

    def init(params):
        zero, one = jnp.zeros((), jnp.int32), jnp.ones((), jnp.float32)
        return ScaleByNadamState(zero, zeros_like(params, mu_dtype), zeros_like(params), one)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        now, ahead = share(count), share(increment(count))
        product = state.product * now
        mu = average(updates, state.mu, b1)
        nu = average(jax.tree.map(absolute_square, updates), state.nu, b2)

        def direction(g, m, v):
            m_hat = ahead * m / (1 - product * ahead) + (1 - now) * widen(g) / (1 - product)
            return m_hat / (jnp.sqrt(v + eps_root) + eps)

        new = jax.tree.map(direction, updates, mu, bias_correction(nu, b2, count))
        state = ScaleByNadamState(count, cast_like(mu, state.mu), cast_like(nu, state.nu), product)
        return cast_like(new, updates), state

    return transformation(init, update)


def nadam(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    momentum_decay: ArrayLike | None = None,
) -> GradientTransformation:
    """Adam with Nesterov momentum.

    Dozat, "Incorporating Nesterov Momentum into Adam" (2016, openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ). Beyond
    :func:`adam`, the numerator weights the gradient as the next step would::

        m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)

    With ``momentum_decay`` = psi, as in Dozat's paper and in torch, b1 grows from b1 / 2 to b1::

        b_t = b1 (1 - 0.96^(t psi) / 2)         P_t = b_1 b_2 ... b_t
        m_hat = b_(t+1) m / (1 - P_(t+1)) + (1 - b_t) g / (1 - P_t)

    Departures: the default is Optax's ``nadam``; torch's ``NAdam`` is ``nadam(lr, momentum_decay=4e-3)``. Its
    ``weight_decay=w``, an L2 penalty, is ``chain(add_decayed_weights(w), nadam(...))``; its decoupled decay is
    ``chain(scale_by_nadam(...), add_decayed_weights(w), scale_by_learning_rate(lr))``, or :func:`nadamw`.

    Args:
      learning_rate: a number or a schedule; as for :func:`adam`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      nesterov: False is :func:`adam`.
      momentum_decay: psi >= 0, the speed at which the weight of the momentum grows; None keeps it at b1.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    Raises:
      ValueError: ``momentum_decay`` without ``nesterov``.

    >>> grads = jnp.float32(1.0)
    >>> for tx in (nadam(0.1), nadam(0.1, momentum_decay=4e-3)):
    ...     print(round(tx.update(grads, tx.init(grads))[0].item(), 4))
    -0.1474
    -0.1056
    """
    check_nonnegative(learning_rate=learning_rate)
    if nesterov:
        direction = scale_by_nadam(b1, b2, eps, eps_root, mu_dtype, momentum_decay=momentum_decay)
    elif momentum_decay is None:
        direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype)
    else:
        raise ValueError(f"momentum_decay={momentum_decay} needs nesterov=True: omit one of them")
    return chain(direction, scale_by_learning_rate(learning_rate))
