"""Adam: momentum divided elementwise by the root of a moving average of the squared gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import ScaleByAdamState

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule, transformation
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, average, bias_correction, cast_like, increment, zeros_like


def scale_by_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
    one_correction: bool = False,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adam`, without the learning rate.

    Args:
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1).
      eps: added outside the root; larger values are closer to SGD with momentum.
      eps_root: added inside the root, for differentiating through the optimizer.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum, see :func:`~jaxopt_mini.nadamw`.
      one_correction: with ``nesterov``, use the same bias correction for both terms.

    Returns:
      A transformation with an ``optax.ScaleByAdamState``, with count int32[], mu and nu like the parameters.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, eps_root=eps_root)

    def ahead(grads, mu, count):
        if one_correction:
            return bias_correction(average(grads, mu, b1), b1, count)
        m, g = bias_correction(mu, b1, increment(count)), bias_correction(grads, b1, count)
        return average(g, m, b1)

    def init(params):
        return ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=zeros_like(params, mu_dtype), nu=zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        nu = average(jax.tree.map(absolute_square, updates), state.nu, b2)
        m = ahead(updates, mu, count) if nesterov else bias_correction(mu, b1, count)
        v = bias_correction(nu, b2, count)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v + eps_root) + eps), m, v)
        state = ScaleByAdamState(count, cast_like(mu, state.mu), cast_like(nu, state.nu))
        return cast_like(direction, updates), state

    return transformation(init, update)


def adam(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Momentum divided by the root of the second moment.

    Kingma, Ba, "Adam: A Method for Stochastic Optimization" (2015, arXiv 1412.6980). Descends from :func:`rmsprop`::

        m <- b1 m + (1 - b1) g           m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2         v_hat = v / (1 - b2^t)
        p <- p - lr m_hat / (sqrt(v_hat) + eps)

    Notation: m, v are ``mu``, ``nu`` here and ``exp_avg``, ``exp_avg_sq`` in torch; b1, b2 are torch's ``betas``.
    For torch's ``Adam(weight_decay=w)``, an L2 penalty, use ``chain(add_decayed_weights(w), adam(lr))``.

    Departures from Optax: low-precision gradients are squared and averaged in float32, so that a float16 gradient of
    zero gives a step of zero instead of 0/0.

    Args:
      learning_rate: a number or a schedule; 1e-3 in the paper, 1e-4 to 8e-3 for language models.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of its square, in [0, 1); 0.95 to 0.99 for language models.
      eps: added outside the root.
      eps_root: added inside the root.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    >>> import jax.numpy as jnp
    >>> tx = adam(0.1)
    >>> params = {"w": jnp.array([1.0, -2.0])}
    >>> updates, _ = tx.update({"w": jnp.array([5.0, -0.01])}, tx.init(params), params)
    >>> [round(x, 4) for x in updates["w"].tolist()]
    [-0.1, 0.1]
    """
    check_nonnegative(learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
