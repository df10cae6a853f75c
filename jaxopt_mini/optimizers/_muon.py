"""Muon: the momentum of hidden weights, orthogonalized, so that all directions have equal size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax.contrib import MuonState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import per_copy
from jaxopt_mini.matrices import layout_or_dimension_numbers, matrices_and_rest, resolve_layout
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.orthogonal import PRECONDITIONINGS, STANDARD, Coefficients, coefficients, orthogonalize
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.shape import consistent, scale_by_shape, widening
from jaxopt_mini.tree import average, bias_correction, cast_like, increment, zeros_like


def scale_by_muon(
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    beta: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any | Callable[[Params], Any] | None = None,
    debias: bool = True,
    ns_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`muon` on a tree of matrices, without the scale by shape.

    Args:
      ns_coeffs: see :func:`muon`, like the other arguments.
      ns_steps: number of steps of the iteration.
      beta: decay of the momentum, in [0, 1).
      eps: added to the norm of the momentum.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum.
      adaptive: multiply by the inner product with the momentum.
      preconditioning: a name in ``jaxopt_mini.orthogonal.PRECONDITIONINGS``.
      weight_dimension_numbers: Optax's form of a layout: tree of ``optax.contrib.MuonDimensionNumbers``.
      debias: correct the bias of the momentum towards zero.
      ns_dtype: dtype that the iteration multiplies in.
      layout: a layout or a function of the parameters that returns one; None takes every leaf with two axes.

    Returns:
      A transformation with an ``optax.contrib.MuonState``, with count int32[], mu like the parameters, ns_coeffs.
    """
    check_fraction(beta=beta)
    check_nonnegative(eps=eps, ns_steps=ns_steps)
    if preconditioning not in PRECONDITIONINGS:
        names = ", ".join(PRECONDITIONINGS)
        raise ValueError(f"unknown preconditioning={preconditioning!r}: choose from {names}")
    layout = layout_or_dimension_numbers(layout, weight_dimension_numbers)

    def direction(grads, mu, count):
        if not nesterov:
            return bias_correction(mu, beta, count) if debias else mu
        if debias:
            mu = bias_correction(mu, beta, increment(count))
            grads = bias_correction(grads, beta, count)
        return average(grads, mu, beta)

    def init(params):
        coeffs = coefficients(ns_coeffs, ns_steps)
        return MuonState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), coeffs)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count, mu = increment(state.count), average(updates, state.mu, beta)
        m = direction(updates, mu, count)
        entries, how = resolve_layout(layout, m), {"preconditioning": preconditioning, "eps": eps, "dtype": ns_dtype}
        new = orthogonalize(m, entries, state.ns_coeffs, ns_steps, **how)
        if adaptive:
            new = jax.tree.map(lambda o, m, entry: per_copy(_by_dual_norm, entry)(o, m), new, m, entries)
        return cast_like(new, updates), MuonState(count, cast_like(mu, state.mu), state.ns_coeffs)

    return keep_shardings(init, update)


def _by_dual_norm(orthogonal, momentum):
    return jnp.sum(momentum.conj() * orthogonal) * orthogonal


def muon(
    learning_rate: ScalarOrSchedule | None,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    beta: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.999,
    adam_eps_root: ArrayLike = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any | Callable[[Params], Any] | None = None,
    consistent_rms: ArrayLike | None = None,
    debias: bool = True,
    ns_dtype: DTypeLike | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Orthogonalized momentum on matrices; AdamW on the rest.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024,
    kellerjordan.github.io/posts/muon). Descends from :func:`sgd`::

        m <- beta m + (1 - beta) g                    u = beta m + (1 - beta) g  (nesterov), or m
        o = newton_schulz(u), near U V' of u = U S V'
        p <- p - lr (sqrt(max(1, fan_out / fan_in)) o + weight_decay p)

    By default the numbers and the state are ``optax.contrib.muon``'s, which applies NAdam's bias corrections to m and g
    in u; o doesn't depend on the scale of u, but does depend on the ratio of m and g. The author's version is
    ``muon(lr, debias=False, eps=1e-7)``; torch's ``Muon(lr, weight_decay=w)`` is the same with ``weight_decay=w``.
    Moonlight (Liu et al. 2025, arXiv 2502.16982), torch's ``adjust_lr_fn="match_rms_adamw"``, gives every update the
    root mean square of AdamW's, so that AdamW's learning rate and decay can be reused: ``consistent_rms=0.2`` in place
    of the square root.

    With a ``layout``, matrices are the hidden weights by role, stacked or not. Without one, as in Optax, they are all
    leaves with two axes, including embedding and head, which performs worse.

    Departures from Optax: the iteration runs in float32 for parameters of any dtype; ``adaptive`` measures each matrix
    of a stack separately; ``ns_coeffs="muon"`` exists; a table with more rows than ``ns_steps`` is truncated instead of
    rejected; with ``preconditioning`` other than "frobenius", small momenta are scaled to norm 1 first, so that ``eps``
    doesn't suppress them.

    Args:
      learning_rate: a number or a schedule; 0.02 for the author's scale, AdamW's for ``consistent_rms``.
      ns_coeffs: "standard", "polar_express" (Amsel et al. 2025: closer to orthogonal in as many steps), "dion"; three
        numbers used in every step; or a row of three per step.
      ns_steps: number of steps; 5.
      beta: decay of the momentum, in [0, 1).
      eps: added to the norm of u, and to Adam's root.
      weight_decay: a number or a schedule, times the learning rate; 0.1 with ``consistent_rms``.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      mu_dtype: dtype that the momentum is stored in; None uses each parameter's dtype.
      nesterov: use Nesterov momentum, in AdamW too.
      adaptive: multiply the update by its inner product with u, the step of steepest descent in the spectral norm.
      preconditioning: scaling before the first step, "frobenius", "spectral", "aol" (Boissin et al. 2025, arXiv
        2512.04632) or "schatten" (Grishina et al. 2025, arXiv 2506.10935); the last two save a step.
      adam_b1: AdamW's b1.
      adam_b2: AdamW's b2; 0.95 to 0.98 for language models.
      adam_eps_root: AdamW's eps_root.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``, which is usually too large.
      muon_weight_dimension_numbers: Optax's form of a layout: tree of ``optax.contrib.MuonDimensionNumbers``.
      consistent_rms: root mean square of every update; None uses the author's scale.
      debias: apply NAdam's bias corrections to m and g.
      ns_dtype: dtype that the iteration multiplies in, e.g. "bfloat16" on an accelerator; None is at least float32.
      rest: optimizer for all other parameters, with its own learning rate, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix.

    Raises:
      ValueError: a number is out of range, a name is unknown, or both forms of a layout are given.

    >>> tx = muon(0.1)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[100.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.07 -0.  ]
     [-0.   -0.07]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, consistent_rms=consistent_rms)
    check_nonnegative(adam_learning_rate=adam_learning_rate, adam_weight_decay=adam_weight_decay)
    check_nonnegative(adam_eps_root=adam_eps_root)
    check_fraction(adam_b1=adam_b1, adam_b2=adam_b2)
    chosen = layout_or_dimension_numbers(layout, muon_weight_dimension_numbers)
    how = {"nesterov": nesterov, "adaptive": adaptive, "preconditioning": preconditioning, "debias": debias}
    matrices = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, ns_dtype=ns_dtype, layout=chosen, **how),
        scale_by_shape(widening if consistent_rms is None else consistent(consistent_rms), chosen),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    adam = chain(
        scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(adam_weight_decay),
        scale_by_learning_rate(learning_rate if adam_learning_rate is None else adam_learning_rate),
    )
    return matrices_and_rest({"muon": matrices, "adam": adam if rest is None else rest}, chosen)
