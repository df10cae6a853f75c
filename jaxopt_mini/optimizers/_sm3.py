"""SM3: AdaGrad with one sum per row and column in place of one per entry."""

from __future__ import annotations

from functools import reduce
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import ScaleBySM3State

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, ScalarOrSchedule
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.tree import absolute_square, arranged_like, average, cast_like, widen, zeros_like, zeros_of


def _others(entry: ParamLayout) -> list[tuple[int, ...]]:
    """For each axis of one stacked copy, the other axes; a scalar has a single empty entry."""
    axes = sorted(entry.inputs + entry.outputs)
    return [tuple(other for other in axes if other != axis) for axis in axes] or [()]


def scale_by_sm3(
    b1: ArrayLike = 0.9, b2: ArrayLike | None = 1.0, eps: ArrayLike = 1e-8, *, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """The direction of :func:`sm3`, without the learning rate.

    Args:
      b1: decay of the momentum, in [0, 1).
      b2: decay of a mean in place of the sum, in [0, 1); 1, or None, sums.
      eps: added inside the root.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation with an ``optax.ScaleBySM3State``, with mu, a list of sums per leaf, one for each axis that isn't
      stacked; nu, the momentum, like the parameters.
    """
    b2 = 1.0 if b2 is None else b2
    check_fraction(b1=b1, b2=None if isinstance(b2, Real) and b2 == 1 else b2)
    check_nonnegative(eps=eps)
    old, new = b2, jnp.where(b2 == 1, 1.0, 1.0 - b2)

    def largest(leaf, entry):
        return [jnp.max(leaf, axes, initial=0) for axes in _others(entry)]

    def stored(total, entry, sums):
        return arranged_like(cast_like(largest(total, entry), jax.tree.leaves(sums)), sums)

    def bound(sums, entry):
        """The minimum of the sums that cover an entry."""
        pairs = zip(jax.tree.leaves(sums), _others(entry), strict=True)
        return reduce(jnp.minimum, [jnp.expand_dims(widen(s), axes) for s, axes in pairs])

    def init(params):
        entries = resolve(layout, params)
        # Not the maxima of zeros, which the compiler would take seconds to fold into constants.
        return ScaleBySM3State(zeros_of(lambda tree: jax.tree.map(largest, tree, entries), params), zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve(layout, updates)
        added = lambda g, sums, entry: new * absolute_square(g) + old * bound(sums, entry)
        total = jax.tree.map(added, updates, state.mu, entries)
        divided = lambda g, s: widen(g) * jnp.where(s > 0, jax.lax.rsqrt(s + eps), 0)
        nu = average(jax.tree.map(divided, updates, total), state.nu, b1)
        mu = jax.tree.map(stored, total, entries, state.mu)
        return cast_like(nu, updates), ScaleBySM3State(mu, cast_like(nu, state.nu))

    return keep_shardings(init, update)


def sm3(
    learning_rate: ScalarOrSchedule,
    momentum: ArrayLike = 0.9,
    *,
    b2: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    layout: Any | None = None,
) -> GradientTransformation:
    """AdaGrad in little memory: row and column maxima.

    Anil, Gupta, Koren, Singer, "Memory-Efficient Adaptive Optimization" (2019, arXiv 1901.11150), SM3-II. Descends from
    :func:`adagrad`. For a matrix, with one number r per row and c per column::

        s_ij = min(r_i, c_j) + g_ij^2
        r_i <- max_j s_ij                    c_j <- max_i s_ij
        m <- momentum m + (1 - momentum) g / sqrt(s + eps)
        p <- p - lr m

    s is an upper bound of AdaGrad's sum. A tensor with k axes has k such vectors; for vectors it is AdaGrad. With
    ``b2``, s is a moving average, b2 min(r_i, c_j) + (1 - b2) g_ij^2, as in the authors' code:
    ``sm3(lr, b2=0.999, eps=1e-10)``. Notation: r, c are ``mu`` here and m is ``nu``, as in Optax.

    Departures from Optax: the learning rate may be a schedule, scalars are supported, and stacked axes have no vector:
    every layer has its own sums.

    Args:
      learning_rate: a number or a schedule; 0.1 to 1.
      momentum: decay of the momentum, in [0, 1).
      b2: decay of a mean in place of the sum, in [0, 1); the learning rate is then about AdamW's. None sums.
      eps: added inside the root.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter, and 4 (rows + columns) per matrix.

    >>> tx, params = sm3(1.0, momentum=0.0), {"w": jnp.zeros((2, 2))}
    >>> updates, state = tx.update({"w": jnp.array([[1.0, 0.0], [0.0, 3.0]])}, tx.init(params))
    >>> print(*state[0].mu["w"])
    [1. 9.] [1. 9.]
    """
    check_nonnegative(learning_rate=learning_rate)
    check_fraction(momentum=momentum)
    return chain(scale_by_sm3(momentum, b2=b2, eps=eps, layout=layout), scale_by_learning_rate(learning_rate))
