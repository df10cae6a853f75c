"""RMSProp: divides every entry by the root of a moving average of its squared gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleByRmsState, ScaleByRStdDevState

# Optax uses these two state types but doesn't export them.
from optax._src.transform import ScaleByRmsWithCountState, ScaleByRStdDevWithCountState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    ScalarOrSchedule,
    identity,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.moments import trace
from jaxopt_mini.tree import (
    absolute_square,
    average,
    bias_correction as unbiased,
    cast_like,
    full_like,
    increment,
    widen,
    zeros_like,
)

STATES: dict[tuple[bool, bool], type] = {  # (centered, bias_correction) -> Optax's state type
    (False, False): ScaleByRmsState,
    (False, True): ScaleByRmsWithCountState,
    (True, False): ScaleByRStdDevState,
    (True, True): ScaleByRStdDevWithCountState,
}


def scale_by_rms(
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    *,
    centered: bool = False,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`rmsprop`, without momentum and learning rate.

    Args:
      decay: decay of the mean of the squared gradient, in [0, 1).
      eps: added to the denominator.
      initial_scale: initial value of the mean of the squares, >= 0.
      eps_in_sqrt: add ``eps`` inside the root.
      bias_correction: divide the means by 1 - decay^t.
      centered: divide by the standard deviation instead: subtract the square of the mean gradient (Optax's
        ``scale_by_stddev``).

    Returns:
      A transformation with the one of Optax's four state types that these flags need, with nu, mu if centered; count if
      corrected.
    """
    check_fraction(decay=decay)
    check_nonnegative(eps=eps, initial_scale=initial_scale)
    kind = STATES[centered, bias_correction]

    def pack(**fields):
        return kind(**{name: fields[name] for name in kind._fields})

    def root(v):
        return jnp.sqrt(v + eps) if eps_in_sqrt else jnp.sqrt(v) + eps

    def init(params):
        mu = zeros_like(params) if centered else None
        return pack(count=jnp.zeros((), jnp.int32), mu=mu, nu=full_like(params, initial_scale))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count = increment(state.count) if bias_correction else jnp.zeros((), jnp.int32)
        mu = average(updates, state.mu, decay) if centered else None
        nu = average(jax.tree.map(absolute_square, updates), state.nu, decay)
        m, v = (unbiased(x, decay, count) if bias_correction else x for x in (mu, nu))
        if centered:
            # The variance of a constant gradient is 0, but rounding may make it negative.
            v = jax.tree.map(lambda m, v: jnp.maximum(v - absolute_square(m), 0), m, v)
        direction = jax.tree.map(lambda g, v: widen(g) / root(v), updates, v)
        state = pack(count=count, mu=cast_like(mu, state.mu) if centered else None, nu=cast_like(nu, state.nu))
        return cast_like(direction, updates), state

    return transformation(init, update)


def rmsprop(
    learning_rate: ScalarOrSchedule | None,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    rate_in_momentum: bool = True,
) -> GradientTransformation:
    """Divides by a moving root mean square of the gradient.

    Tieleman, Hinton, "Lecture 6.5: RMSProp" (2012); centered: Graves, "Generating Sequences With Recurrent Neural
    Networks" (2013, arXiv 1308.0850). Descends from :func:`adagrad`::

        v <- decay v + (1 - decay) g^2
        p <- p - lr g / sqrt(v + eps)

    Departures: the defaults are Optax's. torch's version is ``rmsprop(lr, decay=0.99, eps_in_sqrt=False)``, with
    ``rate_in_momentum=False`` if it has momentum; ``decay`` is its ``alpha``, and its ``weight_decay=w``, an L2
    penalty, is ``chain(add_decayed_weights(w), rmsprop(...))``. The variance of ``centered`` is never negative; in
    Optax and torch rounding can make it negative, and the step NaN.

    Args:
      learning_rate: a number or a schedule; 1e-3 to 1e-2.
      decay: decay of the mean of the squared gradient, in [0, 1).
      eps: added to the denominator.
      initial_scale: initial value of the mean; 1 damps the first steps, 0 makes the first 1 / sqrt(1 - decay) times lr.
      eps_in_sqrt: add ``eps`` inside the root; False adds it outside.
      centered: divide by the standard deviation of the gradient: subtract the square of its mean from v.
      momentum: decay of a sum over the steps, in [0, 1); None disables it.
      nesterov: use Nesterov momentum.
      bias_correction: divide the means by 1 - decay^t; with eps outside the root it is then Adam with b1 = 0.
      rate_in_momentum: the momentum sums steps already multiplied by their learning rates; False multiplies the sum by
        the current one. There is no difference for a constant learning rate.

    Returns:
      A transformation; 4 bytes of state per float32 parameter, 4 more each for ``centered`` and ``momentum``.

    >>> import jax.numpy as jnp
    >>> tx = rmsprop(0.1)
    >>> params = {"w": jnp.array([1.0, -2.0])}
    >>> updates, _ = tx.update({"w": jnp.array([5.0, -0.01])}, tx.init(params), params)
    >>> [round(x, 4) for x in updates["w"].tolist()]
    [-0.3162, 0.3161]
    """
    check_nonnegative(learning_rate=learning_rate)
    check_fraction(momentum=momentum)
    rate = scale_by_learning_rate(learning_rate)
    # Optax's state has an entry for the momentum even without momentum.
    sums = identity() if momentum is None else trace(momentum, nesterov)
    return chain(
        scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction, centered=centered),
        *((rate, sums) if rate_in_momentum else (sums, rate)),
    )
