"""AMSGrad: Adam divided by the largest second moment so far, so that step sizes never grow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByAmsgradState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, widen, zeros_like


def scale_by_amsgrad(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    maximum_first: bool = False,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`amsgrad`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      bias_correction_mu: divide the mean by 1 - b1^t.
      bias_correction_nu: divide the mean of the squares by 1 - b2^t.
      maximum_first: take the maximum before the bias correction.

    Returns:
      A transformation with an ``optax.ScaleByAmsgradState``, with count int32[]; mu, nu, nu_max like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root)

    def init(params):
        moments = zeros_like(params, mu_dtype), zeros_like(params), zeros_like(params)
        return ScaleByAmsgradState(jnp.zeros((), jnp.int32), *moments)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        nu = average(jax.tree.map(absolute_square, updates), state.nu, b2)
        m = bias_correction(mu, b1, count) if bias_correction_mu else mu
        correct = (lambda moment: bias_correction(moment, b2, count)) if bias_correction_nu else (lambda moment: moment)
        nu_max = jax.tree.map(
            lambda old, v: jnp.maximum(widen(old), v), state.nu_max, nu if maximum_first else correct(nu)
        )
        v = correct(nu_max) if maximum_first else nu_max
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v + eps_root) + eps), m, v)
        stored = cast_like(mu, state.mu), cast_like(nu, state.nu), cast_like(nu_max, state.nu_max)
        return cast_like(direction, updates), ScaleByAmsgradState(count, *stored)

    return transformation(init, update)


def amsgrad(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    maximum_first: bool = False,
) -> GradientTransformation:
    """Adam divided by the largest second moment so far.

    Reddi, Kale, Kumar, "On the Convergence of Adam and Beyond" (2018, arXiv 1904.09237). :func:`adam` with the largest
    v so far in place of v::

        n <- max(n, v_hat)
        p <- p - lr m_hat / (sqrt(n) + eps)

    Departures: the default is Optax's, the maximum of the bias-corrected v, which keeps the large v_hat of the first
    noisy steps forever. torch's ``amsgrad=True`` corrects after the maximum, ``n <- max(n, v)`` and
    ``sqrt(n / (1 - b2^t))``: ``maximum_first=True``. The paper has no bias correction: set both to False. torch's AdamW
    form is ``chain(scale_by_amsgrad(...), add_decayed_weights(w), scale_by_learning_rate(lr))``.

    Args:
      learning_rate: a number or a schedule; as for :func:`adam`.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      bias_correction_mu: divide the mean by 1 - b1^t.
      bias_correction_nu: divide the mean of the squares by 1 - b2^t.
      maximum_first: take the maximum before the bias correction.

    Returns:
      A transformation; 12 bytes of state per float32 parameter.

    >>> tx = amsgrad(0.1, b1=0.0, b2=0.5)
    >>> state = tx.init(jnp.float32(0.0))
    >>> for grad in (1.0, 1.0, 0.1):
    ...     updates, state = tx.update(jnp.float32(grad), state)
    >>> print(round(updates.item(), 4))
    -0.01
    """
    check_nonnegative(learning_rate=learning_rate)
    corrections = {"bias_correction_mu": bias_correction_mu, "bias_correction_nu": bias_correction_nu}
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, **corrections, maximum_first=maximum_first),
        scale_by_learning_rate(learning_rate),
    )
