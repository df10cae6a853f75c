"""Aurora: an orthogonal update whose neurons on the longer side have equal sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, no_state
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative, check_static
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.matrices import as_leaves, as_matrices, map_matrices, resolve_layout
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import Coefficients, coefficients, newton_schulz
from jaxopt_mini.transforms.moments import ema
from jaxopt_mini.tree import absolute_square, cast_like, widen


def balanced_polar(
    iterations: int | jax.Array = 2,
    power: ArrayLike = 0.5,
    *,
    ns_coeffs: Coefficients = "convergent",
    ns_steps: int | jax.Array = 12,
    ns_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """Replaces each matrix by a nearly orthogonal one with neurons of equal size, see :func:`aurora`.

    Returns:
      A transformation whose state has no arrays.
    """
    check_at_least_one(iterations=iterations)
    check_nonnegative(power=power, ns_steps=ns_steps)
    check_static(iterations=iterations)

    def one(u):
        if u.shape[0] < u.shape[1]:
            return one(u.mT).mT
        coeffs = coefficients(ns_coeffs, ns_steps)
        iterate = lambda matrix: newton_schulz(matrix, coeffs, ns_steps, eps=1e-7, dtype=ns_dtype)
        if u.shape[0] == u.shape[1]:
            return iterate(u)
        size = lambda matrix: jnp.sum(absolute_square(matrix), 1, keepdims=True)
        scale = 1 / jnp.maximum(jnp.sqrt(size(u)), 1e-7)
        new = iterate(scale * u)
        for _ in range(int(iterations) - 1):
            scale = scale * (u.shape[1] / u.shape[0] / jnp.maximum(size(new), 1e-14)) ** power
            new = iterate(scale * u)
        return new

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        new = map_matrices(one, entries, jax.tree.map(widen, as_matrices(updates, entries)))
        return cast_like(as_leaves(new, entries, updates), updates), state

    return keep_shardings(no_state, update)


def aurora(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    iterations: int | jax.Array = 2,
    power: ArrayLike = 0.5,
    ns_coeffs: Coefficients = "convergent",
    ns_steps: int | jax.Array = 12,
    ns_dtype: DTypeLike | None = None,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.025,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon whose update gives all neurons of the longer side the same size.

    Tilde Research, "Aurora" (2026, github.com/tilde-research/aurora-release). Descends from :func:`muon`. With the
    rows of u the neurons of the longer side, m of them, n on the other::

        m <- beta m + (1 - beta) g               u = beta m + (1 - beta) g
        d_i = 1 / |u_i|                          o = polar(d u)
        d_i <- d_i (n / m / |o_i|^2)^power       o = polar(d u), and so on
        p <- p - lr (sqrt(max(1, fan_out / fan_in)) o + weight_decay p)

    Square matrices take Muon's step.

    Args:
      learning_rate: a number or a schedule; 0.05.
      beta: decay of the momentum, in [0, 1).
      iterations: number of polar factors; the last one is the update.
      power: power of the correction of d.
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of each iteration.
      ns_dtype: dtype that it multiplies in.
      eps: added to Adam's root.
      weight_decay: a number or a schedule, times the learning rate.
      adam_b1: AdamW's b1, for all other parameters.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix.

    >>> tx = aurora(1.0, weight_decay=0.0)
    >>> params = {"w": jnp.ones((4, 1))}
    >>> updates, _ = tx.update({"w": jnp.array([[9.0], [1.0], [1.0], [-1.0]])}, tx.init(params), params)
    >>> print(updates["w"].ravel().round(3))
    [-0.5 -0.5 -0.5  0.5]
    """
    check_fraction(beta=beta)
    how = {"ns_coeffs": ns_coeffs, "ns_steps": ns_steps, "ns_dtype": ns_dtype, "layout": layout}
    matrices = chain(
        ema(beta, debias=False, nesterov=True),
        balanced_polar(iterations, power, **how),
        *scaled_and_decayed(learning_rate, weight_decay=weight_decay, layout=layout),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
