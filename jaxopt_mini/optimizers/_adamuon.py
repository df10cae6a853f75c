"""AdaMuon: Muon with a second moment of each entry, after the iteration or, as in Muon^2, before it."""

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
from jaxopt_mini.matrices import resolve_layout
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import STANDARD, Coefficients, coefficients, orthogonalize
from jaxopt_mini.transforms.neurons import normalize
from jaxopt_mini.tree import absolute_square, average, cast_like, zeros_like, zeros_of

MOMENTS = ("after", "before")


class ScaleByAdamuonState(NamedTuple):
    """State of :func:`scale_by_adamuon`."""

    mu: Updates  # like the parameters
    nu: Updates  # like the parameters, float32


def scale_by_adamuon(
    beta: ArrayLike = 0.95,
    b2: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    *,
    moment: str = "after",
    sign: bool = True,
    nesterov: bool = True,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    ns_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`adamuon` on a tree of matrices, with the same arguments.

    Returns:
      A transformation with a :class:`ScaleByAdamuonState`.
    """
    check_fraction(beta=beta, b2=b2)
    check_nonnegative(eps=eps, ns_steps=ns_steps)
    check_name(moment, MOMENTS, "unknown moment")
    b2 = beta if b2 is None else b2

    def init(params):
        mu = zeros_like(params)
        return ScaleByAdamuonState(mu, zeros_of(lambda tree: jax.tree.map(absolute_square, tree), params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, coeffs = resolve_layout(layout, updates), coefficients(ns_coeffs, ns_steps)
        mu = average(updates, state.mu, beta)
        new = average(updates, mu, beta) if nesterov else mu
        new = jax.tree.map(jnp.sign, new) if sign else new

        def iterated(tree):
            return orthogonalize(tree, entries, coeffs, ns_steps, eps=1e-7, dtype=ns_dtype)

        new = iterated(new) if moment == "after" else new
        measured = new if moment == "after" else updates
        nu = average(jax.tree.map(absolute_square, measured), state.nu, b2)
        new = jax.tree.map(lambda u, v: u / (jnp.sqrt(v) + eps), new, nu)
        new = iterated(new) if moment == "before" else new
        return cast_like(new, updates), ScaleByAdamuonState(cast_like(mu, state.mu), nu)

    return keep_shardings(init, update)


def adamuon(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    b2: ArrayLike | None = None,
    eps: ArrayLike = 1e-8,
    moment: str = "after",
    sign: bool = True,
    consistent_rms: ArrayLike | None = 0.2,
    shape: str = "widening",
    nesterov: bool = True,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    ns_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 0.01,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon with a second moment per entry.

    Si, Zhang, Shen, "AdaMuon: Adaptive Muon Optimizer" (2025, arXiv 2507.11005). Descends from :func:`muon`::

        m <- beta m + (1 - beta) g               o = newton_schulz(sign(beta m + (1 - beta) g))
        v <- b2 v + (1 - b2) o^2                 o <- o / (sqrt(v) + eps), rescaled to the root mean square 0.2
        p <- p - lr (o + weight_decay p)

    There are no bias corrections. Muon^2 (modded-nanogpt 2026) divides the momentum, by the root of the mean of
    g^2, before the iteration instead:
    ``adamuon(lr, moment="before", sign=False, consistent_rms=None, ns_coeffs="convergent", ns_steps=12, b2=0.95,
    eps=1e-10)``.

    Args:
      learning_rate: a number or a schedule; AdamW's, since the root mean square is AdamW's.
      beta: decay of the momentum, in [0, 1).
      b2: decay of v, in [0, 1); None is ``beta``.
      eps: added to the root of v, and to Adam's.
      moment: divide "after" the iteration, by the root of v, or "before" it, by that of the mean of g^2.
      sign: take the sign of the momentum first.
      consistent_rms: root mean square of every update; None uses the factor of ``shape``.
      shape: see :func:`muon`, like the following arguments.
      nesterov: use Nesterov momentum.
      ns_coeffs: coefficients of the iteration.
      ns_steps: number of its steps.
      ns_dtype: dtype that it multiplies in.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      adam_b1: AdamW's b1, for all other parameters.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 bytes of state per float32 parameter of a matrix.

    >>> tx = adamuon(0.1, weight_decay=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> updates, _ = tx.update({"w": jnp.array([[9.0, 0.0], [0.0, 1.0]])}, tx.init(params), params)
    >>> print(updates["w"].round(3))
    [[-0.028 -0.   ]
     [-0.    -0.028]]
    """
    how = {"moment": moment, "sign": sign, "nesterov": nesterov, "ns_coeffs": ns_coeffs, "ns_steps": ns_steps}
    whole = [normalize("frobenius", layout=layout)] if consistent_rms is not None else []
    size = {"shape": shape, "consistent_rms": consistent_rms, "layout": layout}
    size |= {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask}
    matrices = chain(
        scale_by_adamuon(beta, b2, eps, ns_dtype=ns_dtype, layout=layout, **how),
        *whole,
        *scaled_and_decayed(learning_rate, **size),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
