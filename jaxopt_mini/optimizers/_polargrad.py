"""PolarGrad: the polar factor of the momentum, times its nuclear norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, Updates
from jaxopt_mini.check import check_fraction, check_name, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import per_copy
from jaxopt_mini.matrices import resolve_layout
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import POLARS, Coefficients, coefficients, orthogonalize
from jaxopt_mini.tree import average, cast_like, widen, zeros_like


class ScaleByPolargradState(NamedTuple):
    """State of :func:`scale_by_polargrad`."""

    mu: Updates  # like the parameters


def scale_by_polargrad(
    beta: ArrayLike = 0.95,
    polar: str = "newton_schulz",
    ns_steps: int | jax.Array = 12,
    *,
    polar_first: bool = False,
    ns_coeffs: Coefficients = "convergent",
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`polargrad` on a tree of matrices, with the same arguments.

    Returns:
      A transformation with a :class:`ScaleByPolargradState`.
    """
    check_fraction(beta=beta)
    check_nonnegative(ns_steps=ns_steps)
    check_name(polar, POLARS, "unknown polar")

    def init(params):
        return ScaleByPolargradState(zeros_like(params, mu_dtype))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, coeffs = resolve_layout(layout, updates), coefficients(ns_coeffs, ns_steps)

        def factor(tree):
            return orthogonalize(tree, entries, coeffs, ns_steps, polar=polar, eps=1e-7)

        def times_inner(a, b, c):
            """Each matrix of c times the inner product of a and b."""
            scaled = lambda a, b, c: jnp.sum(a.conj() * b) * c
            return jax.tree.map(lambda a, b, c, entry: per_copy(scaled, entry)(widen(a), b, c), a, b, c, entries)

        if polar_first:
            u = factor(updates)
            mu = average(u, state.mu, beta)
            new = times_inner(updates, u, mu)
        else:
            mu = average(updates, state.mu, beta)
            u = factor(mu)
            new = times_inner(mu, u, u)
        return cast_like(new, updates), ScaleByPolargradState(cast_like(mu, state.mu))

    return keep_shardings(init, update)


def polargrad(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    polar: str = "newton_schulz",
    ns_steps: int | jax.Array = 12,
    polar_first: bool = False,
    ns_coeffs: Coefficients = "convergent",
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Steepest descent in the spectral norm: Muon with steps as long as the gradient.

    Lau, Long, Su, "PolarGrad: A Class of Matrix-Gradient Optimizers from a Unifying Preconditioning Perspective" (2025,
    arXiv 2505.21799). Descends from :func:`muon`::

        m <- beta m + (1 - beta) g               m = U H, its polar decomposition
        p <- p - lr (tr(H) U + weight_decay p)

    tr(H) is the nuclear norm of m, so the step shrinks with the gradient and the learning rate depends on its scale.
    With ``polar_first``, U and the norm are those of g, and U is averaged.

    Departures: U is from a Newton-Schulz iteration that converges, made of products alone. The official default, two
    steps of QDWH (``polar="qdwh", ns_steps=2``), does not converge; six do.

    Args:
      learning_rate: a number or a schedule; far smaller than Muon's.
      beta: decay of the momentum, in [0, 1).
      polar: "newton_schulz" or "qdwh".
      ns_steps: number of steps of either.
      polar_first: average the polar factors of the gradients.
      ns_coeffs: coefficients for "newton_schulz", see :func:`muon`.
      eps: added to Adam's root.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      adam_b1: AdamW's b1, for all other parameters.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix.

    >>> tx = polargrad(0.1, beta=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.4 -0. ]
     [-0.  -0.4]]
    """
    how = {"polar_first": polar_first, "ns_coeffs": ns_coeffs, "mu_dtype": mu_dtype, "layout": layout}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "layout": layout}
    matrices = chain(
        scale_by_polargrad(beta, polar, ns_steps, **how),
        *scaled_and_decayed(learning_rate, shape="none", **reduce),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
