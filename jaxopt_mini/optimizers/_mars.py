"""MARS: variance reduction for adaptive optimizers, from the difference to the previous gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    Updates,
    transformation,
)
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain, partition
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.optimizers._amsgrad import scale_by_amsgrad
from jaxopt_mini.optimizers._lion import scale_by_lion
from jaxopt_mini.optimizers._muon import scale_by_muon
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.clip import at_most
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.shape import scale_by_shape, widening
from jaxopt_mini.tree import absolute_square, cast_like, times, widen, zeros_like


class ReduceVarianceState(NamedTuple):
    """State of :func:`reduce_variance`."""

    last: Updates  # the previous gradient, like the parameters


def reduce_variance(
    b1: ArrayLike = 0.95, gamma: ArrayLike = 0.025, layout: Any | None = None
) -> GradientTransformationExtraArgs:
    """Adds a multiple of the change since the previous gradient, and clips each tensor to norm 1.

    Args:
      b1: decay of the following mean of the gradient, in [0, 1).
      gamma: strength, >= 0; 0 only clips.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names the stacked axes; None infers it.

    Returns:
      A transformation with a :class:`ReduceVarianceState`.
    """
    check_fraction(b1=b1)
    check_nonnegative(gamma=gamma)
    strength = gamma * b1 / (1 - b1)

    def reduced(g: jax.Array, last: jax.Array, entry: ParamLayout) -> jax.Array:
        c = widen(g) + strength * (widen(g) - widen(last))
        size = jnp.sqrt(jnp.sum(absolute_square(c), entry.inputs + entry.outputs, keepdims=True))
        return times(c, at_most(1.0, size)).astype(g.dtype)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        new = jax.tree.map(reduced, updates, state.last, resolve(layout, updates))
        return new, ReduceVarianceState(cast_like(updates, state.last))

    return transformation(lambda params: ReduceVarianceState(zeros_like(params)), update)


def _adam(b1, b2, eps, amsgrad, layout=None):
    del layout
    return scale_by_amsgrad(b1, b2, eps, maximum_first=True) if amsgrad else scale_by_adam(b1, b2, eps)


def _lion(b1, b2, eps, amsgrad, layout):
    del b2, eps, amsgrad, layout
    return scale_by_lion(b1, b1)


def _shampoo(b1, b2, eps, amsgrad, layout):
    """An orthogonalized mean for matrices, Adam for vectors; eps is relative to a sum."""
    link = scale_by_muon(beta=b1, eps=eps * (1 - b1), nesterov=False, debias=False, layout=lambda p: resolve(layout, p))
    matrices = chain(link, scale_by_shape(widening, layout))
    return partition({"mars": matrices, "vector": _adam(b1, b2, eps, amsgrad)}, _labels(layout))


def _labels(layout):
    def labels(params):
        return jax.tree.map(lambda entry: "vector" if entry.role == "vector" else "mars", resolve(layout, params))

    return labels


FORMS: dict[str, Callable[..., Any]] = {"adamw": _adam, "lion": _lion, "shampoo": _shampoo}


def mars(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    gamma: ArrayLike = 0.025,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    form: str = "adamw",
    amsgrad: bool = False,
    reduce_vectors: bool = False,
    vector_learning_rate: ScalarOrSchedule | None = None,
    vector_b1: ArrayLike = 0.9,
    vector_b2: ArrayLike = 0.95,
    vector_weight_decay: ScalarOrSchedule = 0.1,
    layout: Any | None = None,
) -> GradientTransformation:
    """AdamW on variance-reduced gradients.

    Yuan et al., "MARS: Unleashing the Power of Variance Reduction for Training Large Models" (2024, arXiv 2411.10438).
    Descends from :func:`adamw`::

        c = g + gamma b1 / (1 - b1) (g - g_last)          g_last = 0 in the first step
        c <- c / max(1, |c|)                              per tensor, in a stack per layer
        p <- p - lr (direction(c) + weight_decay p)       Adam's, or the sign of Lion's momentum

    The difference removes from the momentum part of the contribution of old batches. With gamma = 1 and exact
    differences it is the STORM estimator.

    Departures: the official code always uses "approximate" differences as here, between gradients of two batches; exact
    ones need two gradients per step. Its Lion has a single b, ``b1``. Its vectors are all leaves that aren't
    two-dimensional.

    Args:
      learning_rate: a number or a schedule; 3e-3 to 8e-3.
      b1: decay of the mean of c, in [0, 1).
      b2: decay of the mean of its square, in [0, 1); only for "adamw".
      eps: added outside the root.
      gamma: strength of the reduction, >= 0; 0.025 to 0.05.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      form: "adamw", "lion", or "shampoo": :func:`muon`'s iteration on the mean of c.
      amsgrad: divide by the largest mean square so far, also for vectors; not in "lion".
      reduce_vectors: treat vectors like matrices.
      vector_learning_rate: the vectors' learning rate; None is ``learning_rate``.
      vector_b1: the vectors' b1.
      vector_b2: the vectors' b2.
      vector_weight_decay: the vectors' weight_decay.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, which names vectors and stacked axes; None infers it.

    Returns:
      A transformation; 12 bytes of state per float32 parameter, 8 in the form "lion" and for vectors.

    Raises:
      ValueError: a number is out of range, or the form is unknown.

    >>> tx = mars(0.1, form="lion", weight_decay=0.5)
    >>> params = {"w": jnp.array([[1.0, -2.0]])}
    >>> updates, _ = tx.update({"w": jnp.array([[5.0, -0.01]])}, tx.init(params), params)
    >>> print(updates["w"])
    [[-0.15  0.2 ]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, vector_weight_decay=vector_weight_decay)
    check_nonnegative(vector_learning_rate=vector_learning_rate)
    check_fraction(b2=b2, vector_b1=vector_b1, vector_b2=vector_b2)
    if form not in FORMS:
        raise ValueError(f"unknown form={form!r}: choose from {', '.join(FORMS)}")
    reduced = chain(
        reduce_variance(b1, gamma, layout),
        FORMS[form](b1, b2, eps, amsgrad, layout),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    if reduce_vectors:
        return reduced
    plain = chain(
        _adam(vector_b1, vector_b2, eps, amsgrad),
        add_decayed_weights(vector_weight_decay, mask),
        scale_by_learning_rate(learning_rate if vector_learning_rate is None else vector_learning_rate),
    )

    return partition({"mars": reduced, "vector": plain}, _labels(layout))
