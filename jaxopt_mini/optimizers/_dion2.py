"""Dion2: Muon on the rows of the momentum with the largest norm; the others wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Updates,
    require_real,
)
from jaxopt_mini.check import check_fraction, check_name, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.matrices import (
    as_leaves,
    map_matrices,
    matrix_shapes,
    resolve_layout,
    unzip,
    wide_matrices,
)
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import Coefficients, coefficients, newton_schulz
from jaxopt_mini.tree import absolute_square, cast_like, mean, norm, zeros_like

SELECTIONS = ("shorter", "outputs")
TINY = 1e-8  # from the official code; added to roots


class ScaleByDion2State(NamedTuple):
    """State of :func:`scale_by_dion2`."""

    mu: Updates  # the momentum that wasn't applied yet, like the parameters
    nu: Updates  # for each matrix (*stacked, neurons), float32; () without a second moment


def scale_by_dion2(
    fraction: ArrayLike = 0.25,
    beta: ArrayLike = 0.95,
    b2: ArrayLike | None = None,
    *,
    select: str = "shorter",
    ns_coeffs: Coefficients = "dion2",
    ns_steps: int | jax.Array = 5,
    eps: ArrayLike = 1e-8,
    ns_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`dion2` on a tree of matrices, with the same arguments, without the scale by shape.

    Returns:
      A transformation with a :class:`ScaleByDion2State`.
    """
    check_fraction(beta=beta, b2=b2)
    check_nonnegative(fraction=fraction, eps=eps, ns_steps=ns_steps)
    check_name(select, SELECTIONS, "unknown select")

    def selects_inputs(shape):
        return select == "shorter" and shape[-2] < shape[-1]

    def first_nu(matrix):
        neurons = matrix.shape[-2] if selects_inputs(matrix.shape) else matrix.shape[-1]
        return jnp.zeros((*matrix.shape[:-2], neurons), jnp.float32)

    def init(params):
        require_real(params, "dion2")
        matrices = matrix_shapes(params, resolve_layout(layout, params))
        nu = () if b2 is None else jax.tree.map(first_nu, matrices)
        return ScaleByDion2State(zeros_like(params, mu_dtype), nu)

    def one(g, mu, *nu):
        if selects_inputs(g.shape):
            return rows(g, mu, *nu)
        step, mu, *nu = rows(g.mT, mu.mT, *nu)
        return step.mT, mu.mT, *nu

    def rows(g, mu, *nu):
        """The same where the rows are the neurons to select from."""
        if not g.size:
            return g, mu, *nu
        mu, count = mu + g, how_many(len(g))
        chosen = jax.lax.top_k(jnp.sum(jnp.abs(mu), 1), count if isinstance(count, int) else len(g))[1]
        applied = jnp.arange(len(chosen), dtype=jnp.float32) < count  # all, unless the fraction is traced
        u = jnp.where(applied[:, None], mu[chosen], 0.0)
        u = newton_schulz(u, coefficients(ns_coeffs, ns_steps), ns_steps, eps=eps, dtype=ns_dtype)
        if nu and b2 is not None:
            old = nu[0][chosen]
            v = jnp.where(applied, b2 * old + (1 - b2) * mean(absolute_square(u), 1), old)
            nu = (nu[0].at[chosen].set(v),)
            new = u / (jnp.sqrt(v) + TINY)[:, None]
            u = new * (norm(u) / jnp.maximum(norm(new), TINY))
        decay = jnp.where(applied, beta, 1.0)[:, None]
        return jnp.zeros_like(g).at[chosen].set(u), mu.at[chosen].multiply(decay), *nu

    def how_many(rows):
        if isinstance(fraction, Real):
            return min(rows, max(1, math.ceil(float(fraction) * rows)))
        return jnp.clip(jnp.ceil(fraction * rows), 1, rows)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        g, mu = wide_matrices(entries, updates, state.mu)
        nus = () if b2 is None else (state.nu,)
        step, mu, *nus = unzip(map_matrices(one, entries, g, mu, *nus), entries, 2 + len(nus))
        step, mu = (as_leaves(tree, entries, updates) for tree in (step, mu))
        return cast_like(step, updates), ScaleByDion2State(cast_like(mu, state.mu), nus[0] if nus else ())

    return keep_shardings(init, update)


def dion2(
    learning_rate: ScalarOrSchedule,
    *,
    fraction: ArrayLike = 0.25,
    beta: ArrayLike = 0.95,
    b2: ArrayLike | None = None,
    select: str = "shorter",
    ns_coeffs: Coefficients = "dion2",
    ns_steps: int | jax.Array = 5,
    eps: ArrayLike = 1e-8,
    shape: str = "spectral",
    consistent_rms: ArrayLike | None = None,
    weight_decay: ScalarOrSchedule = 0.01,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    ns_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon on a part of the rows in each step.

    Ahn et al., "Dion2: A Simple Method to Shrink Matrix in Muon" (2025, arXiv 2512.16928). Descends from :func:`muon`.
    With the rows of M the neurons of the shorter side::

        M <- M + g                    S: the rows with the largest sums of absolute values
        U_S = newton_schulz(M_S)      M_S <- beta M_S; the other rows of M are kept, those of U are 0
        p <- p - lr (sqrt(fan_out / fan_in) U + weight_decay p)

    Only the part of the momentum that was applied decays. The iteration works on a smaller matrix. Dion3 selects
    outputs and adds the second moment of :func:`normuon`: ``dion2(lr, select="outputs", b2=0.95)``.

    Args:
      learning_rate: a number or a schedule; 0.01.
      fraction: share of the rows, at least one row.
      beta: decay of the rows that were applied, in [0, 1).
      b2: decay of the mean square of each selected neuron's update, in [0, 1); None doesn't divide by its root.
      select: select from the neurons of the "shorter" side or always from the "outputs".
      ns_coeffs: see :func:`muon`, like the following arguments.
      ns_steps: number of steps of the iteration.
      eps: added to the norm of the selected rows, and to Adam's root.
      shape: factor of the update by fan-in and fan-out.
      consistent_rms: root mean square of an update of all rows, in place of ``shape``.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      ns_dtype: dtype that the iteration multiplies in.
      mu_dtype: dtype that the momentum is stored in.
      adam_b1: AdamW's b1, for all other parameters.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix.

    >>> tx = dion2(0.1, fraction=0.5, weight_decay=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[9.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(1))
    [[-0.1 -0. ]
     [-0.  -0. ]]
    """
    iteration = {"ns_coeffs": ns_coeffs, "ns_steps": ns_steps, "eps": eps, "ns_dtype": ns_dtype}
    size = {"shape": shape, "consistent_rms": consistent_rms, "layout": layout}
    size |= {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask}
    matrices = chain(
        scale_by_dion2(fraction, beta, b2, select=select, mu_dtype=mu_dtype, layout=layout, **iteration),
        *scaled_and_decayed(learning_rate, **size),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
