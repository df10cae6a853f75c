"""RAdam: Adam that starts as SGD with momentum until its second moment is reliable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import bias_correction, increment, nesterov_moment, widen


def rectification(b2: ArrayLike, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rho and r of :func:`radam` after step ``count``, and 1 - b2^count; r is NaN for some rho below 4."""
    limit = 2 / (1 - b2) - 1
    t = count.astype(jnp.float32)
    # 1 - b2^t computed from 1 - b2, since rho is a small difference of large numbers.
    weight = -jnp.expm1(t * jnp.log1p(b2 - 1.0))
    rho = jnp.asarray(limit - 2 * t * (1 - weight) / weight)
    return rho, jnp.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)), weight


def scale_by_radam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    correct_eps: bool = False,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`radam`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      threshold: smallest rho at which the second moment is used.
      nesterov: use Nesterov momentum.
      correct_eps: divide ``eps`` by the root of 1 - b2^t.

    Returns:
      A transformation with an ``optax.ScaleByAdamState``, with count int32[], mu and nu like the parameters.
    """
    check_nonnegative(threshold=threshold)
    check_fraction(b1=b1, b2=b2)

    def adam(eps) -> Any:
        return scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        rho, r, weight = rectification(b2, count)
        adapted, state = adam(eps / jnp.sqrt(weight) if correct_eps else eps).update(updates, state)
        m = nesterov_moment(updates, state.mu, b1, count) if nesterov else bias_correction(state.mu, b1, count)
        rectified = lambda a, m: jnp.where(rho >= threshold, r * widen(a), m).astype(a.dtype)
        return jax.tree.map(rectified, adapted, m), state

    return transformation(adam(eps).init, update)


def radam(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    correct_eps: bool = False,
) -> GradientTransformation:
    """Adam with a warm-up derived from its early variance.

    Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (2020, arXiv 1908.03265). Descends from
    :func:`adam`. rho is about the number of gradients that v averages over; with too few, m_hat / sqrt(v_hat) has a
    large variance::

        rho_inf = 2 / (1 - b2) - 1          rho = rho_inf - 2 t b2^t / (1 - b2^t)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        p <- p - lr m_hat                              while rho < threshold
        p <- p - lr r m_hat / (sqrt(v_hat) + eps)      from then on

    It has the effect of a warm-up of about 2 / (1 - b2) steps.

    Departures from Optax: 1 - b2^t is computed without loss of precision in rho; in Optax r at step 6 is 1 % too small
    for b2 = 0.999 and twice as large as it should be for 0.9999. torch adds eps before the bias correction, as
    sqrt(v) + eps: ``correct_eps=True``. Its ``weight_decay=w``, an L2 penalty, is ``chain(add_decayed_weights(w),
    radam(...))``; its decoupled decay is ``chain(scale_by_radam(...), add_decayed_weights(w),
    scale_by_learning_rate(lr))``.

    Args:
      learning_rate: a number or a schedule; as for :func:`adam`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      threshold: smallest rho at which the second moment is used, above 4; the usual b2 reach 5 at step 6.
      nesterov: use Nesterov momentum.
      correct_eps: divide ``eps`` by the root of 1 - b2^t.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> tx = radam(0.1)
    >>> state = tx.init(jnp.float32(0.0))
    >>> for step in range(1, 7):
    ...     updates, state = tx.update(jnp.float32(3.0), state)
    ...     print(step, round(updates.item(), 4))
    1 -0.3
    2 -0.3
    3 -0.3
    4 -0.3
    5 -0.3
    6 -0.0026
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov, correct_eps=correct_eps),
        scale_by_learning_rate(learning_rate),
    )
