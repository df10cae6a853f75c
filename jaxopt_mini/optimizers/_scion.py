"""Scion: steepest descent in an operator norm that depends on the role of each parameter."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, Params, ScalarOrSchedule, no_state, stateless
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain, partition
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import roles
from jaxopt_mini.matrices import as_leaves, resolve_layout, wide_matrices
from jaxopt_mini.orthogonal import STANDARD, Coefficients, coefficients, orthogonalize
from jaxopt_mini.transforms._scale import scale, scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.moments import ema
from jaxopt_mini.transforms.shape import scale_by_shape, spectral
from jaxopt_mini.tree import absolute_square, cast_like


def scale_by_scion(
    radius: ArrayLike = 50.0,
    embedding_radius: ArrayLike = 10.0,
    head_radius: ArrayLike = 3000.0,
    vector_radius: ArrayLike = 1.0,
    *,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    eps: ArrayLike = 1e-8,
    ns_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformation:
    """The point of a norm ball that is furthest along the updates, in the norm of each leaf's role.

    Args:
      radius: radius for matrices, see :func:`scion` for all radii.
      embedding_radius: radius for embeddings.
      head_radius: radius for the head.
      vector_radius: radius for vectors.
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of the iteration.
      eps: added to norms and roots.
      ns_dtype: dtype that the iteration multiplies in.
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.

    Returns:
      A transformation whose state has no arrays.
    """
    check_nonnegative(radius=radius, embedding_radius=embedding_radius, head_radius=head_radius)
    check_nonnegative(vector_radius=vector_radius, eps=eps, ns_steps=ns_steps)

    def orthogonal(updates, state, params=None, **extra_args):
        del params, extra_args
        coeffs, entries = coefficients(ns_coeffs, ns_steps), resolve_layout(layout, updates)
        return cast_like(orthogonalize(updates, entries, coeffs, ns_steps, eps=eps, dtype=ns_dtype), updates), state

    def unit_rows(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        [rows] = wide_matrices(entries, updates)  # a vector is a single row
        rows = jax.tree.map(lambda r: r / (jnp.sqrt(jnp.mean(absolute_square(r), -1, keepdims=True)) + eps), rows)
        return cast_like(as_leaves(rows, entries, updates), updates), state

    def signs(updates, params):
        del params
        return jax.tree.map(jnp.sign, updates)

    def sized(factor):
        return scale_by_shape(factor, layout)

    transforms: dict[Hashable, GradientTransformation] = {
        "matrix": chain(
            keep_shardings(no_state, orthogonal), sized(lambda fan_in, fan_out: radius * spectral(fan_in, fan_out))
        ),
        "embedding": chain(keep_shardings(no_state, unit_rows), scale(embedding_radius)),
        "head": chain(stateless(signs), sized(lambda fan_in, fan_out: head_radius / fan_in)),
        "vector": chain(keep_shardings(no_state, unit_rows), scale(vector_radius)),
    }
    return partition(transforms, lambda params: roles(resolve_layout(layout, params)))


def scion(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.9,
    constrained: bool = True,
    constrained_mask: Any | Callable[[Params], Any] | None = None,
    radius: ArrayLike = 50.0,
    embedding_radius: ArrayLike = 10.0,
    head_radius: ArrayLike = 3000.0,
    vector_radius: ArrayLike = 1.0,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    ns_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Steps of fixed operator norm, chosen by parameter role.

    Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs" (2025, arXiv 2502.07529). Descends from
    :func:`muon`::

        m <- beta m + (1 - beta) g
        p <- (1 - lr) p - lr radius o(m)        constrained: p stays in the ball it starts in
        p <- p - lr radius o(m)                 unconstrained

    The norm, and so o(m), depends on the role: for a matrix sqrt(fan_out / fan_in) U V' of m = U S V', as in
    :func:`muon`; for the head sign(m) / fan_in; for embeddings each row of m divided by its root mean square; for
    vectors likewise. These are operator norms with respect to the root mean squares of inputs and outputs, so that one
    learning rate suits all widths and depths.

    Departures: the official code takes one norm per parameter group and calls ``1 - beta`` the momentum. The radii of
    matrices and head are the authors' for GPTs; those of embeddings and vectors are our choice.

    Args:
      learning_rate: a number or a schedule; 2**-12 with these radii.
      beta: decay of the momentum, in [0, 1).
      constrained: multiply the weights by 1 - lr in each step.
      constrained_mask: leaves for which it does, a tree of booleans or a function of the parameters that returns one.
      radius: radius for matrices, in the spectral norm over sqrt(fan_out / fan_in).
      embedding_radius: radius for the rows of embeddings, in their root mean square.
      head_radius: radius for the entries of the head, times fan_in.
      vector_radius: radius for vectors, in their root mean square.
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of the iteration.
      eps: added to norms and roots.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      ns_dtype: dtype that the iteration multiplies in.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter.

    >>> tx = scion(0.1, constrained=False, vector_radius=2.0)
    >>> params = {"b": jnp.ones(2)}
    >>> updates, _ = tx.update({"b": jnp.array([0.1, -0.1])}, tx.init(params), params)
    >>> print(updates["b"])
    [-0.2  0.2]
    """
    check_nonnegative(learning_rate=learning_rate)
    check_fraction(beta=beta)
    radii = (radius, embedding_radius, head_radius, vector_radius)
    how = {"ns_coeffs": ns_coeffs, "ns_steps": ns_steps, "eps": eps, "ns_dtype": ns_dtype, "layout": layout}
    shrink = [add_decayed_weights(1.0, constrained_mask)] if constrained else []
    links = (ema(beta, False, mu_dtype), scale_by_scion(*radii, **how), *shrink)
    return chain(*links, scale_by_learning_rate(learning_rate))
