"""NorMuon: Muon with a second moment per output neuron, which equalizes their update sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini.base import GradientTransformation, GradientTransformationExtraArgs, Params, ScalarOrSchedule, Updates
from jaxopt_mini.check import check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import infer
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    map_matrices,
    matrix_shapes,
    resolve_layout,
    unzip,
)
from jaxopt_mini.optimizers._muon import scale_by_muon, scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import STANDARD, Coefficients
from jaxopt_mini.transforms.neurons import normalize as normalize_neurons
from jaxopt_mini.tree import absolute_square, cast_like, mean, norm, widen, zeros_of

TINY = 1e-10  # from the official code; added to roots and norms


class ScaleByNormuonState(NamedTuple):
    """State of :func:`scale_by_normuon`."""

    nu: Updates  # for each matrix (*stacked, fan-out), float32; with ``longer``, or (*stacked, fan-in)


def scale_by_normuon(
    b2: ArrayLike = 0.95,
    layout: Any | Callable[[Params], Any] | None = None,
    *,
    longer: bool = False,
    min_square: ArrayLike = 0.0,
) -> GradientTransformationExtraArgs:
    """Divides the update of each output neuron by its running root mean square; the norm of the matrix is unchanged.

    Args:
      b2: decay of the mean square of a neuron's update, in [0, 1).
      layout: a layout, a function of the parameters that returns one, or None for the inferred one.
      longer: treat the neurons of the longer side alike: the inputs, where there are more of them.
      min_square: lower bound of the mean square in the root.

    Returns:
      A transformation with a :class:`ScaleByNormuonState`.
    """
    check_fraction(b2=b2)
    check_nonnegative(min_square=min_square)

    def other_side(matrix):
        return -1 if longer and matrix.shape[-2] > matrix.shape[-1] else -2

    def mean_squares(matrix):
        return mean(absolute_square(matrix), other_side(matrix))

    def one(o, v):
        v = b2 * v + (1 - b2) * mean_squares(o)
        new = o / jnp.expand_dims(jnp.sqrt(jnp.maximum(v, min_square)) + TINY, other_side(o))
        return new * (norm(o) / (norm(new) + TINY)), v

    def init(params):
        matrices = matrix_shapes(params, resolve_layout(layout, params))
        return ScaleByNormuonState(zeros_of(lambda tree: jax.tree.map(mean_squares, tree), matrices))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        matrices = jax.tree.map(widen, as_matrices(updates, entries))
        new, nu = unzip(map_matrices(one, entries, matrices, state.nu), entries)
        return cast_like(as_leaves(new, entries, updates), updates), ScaleByNormuonState(nu)

    return keep_shardings(init, update)


def normuon(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    ns_coeffs: Coefficients = STANDARD,
    ns_steps: int | jax.Array = 5,
    eps: ArrayLike = 1e-7,
    nesterov: bool = True,
    normalize: str | None = None,
    normalize_after: str | None = None,
    longer: bool = False,
    min_square: ArrayLike = 0.0,
    contra: ArrayLike | None = None,
    shape: str = "widening",
    consistent_rms: ArrayLike | None = None,
    min_ratio: ArrayLike | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    decay: str = "plain",
    mu_dtype: DTypeLike | None = None,
    ns_dtype: DTypeLike | None = None,
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.95,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    rest: GradientTransformation | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Muon with update sizes equalized across neurons.

    Li et al., "NorMuon: Making Muon more efficient and scalable" (2025, arXiv 2510.05491). The original :func:`muon`
    and, after the iteration, for each output neuron j of o (fan-in, fan-out)::

        v_j <- b2 v_j + (1 - b2) mean_i o_ij^2
        o_ij <- o_ij / sqrt(v_j), then o is rescaled to its previous norm

    Orthogonal updates have equal singular values but neurons of unequal size. Momentum decay and iteration are Muon's.
    Without a ``layout`` it is inferred.

    nanochat's Muon (Karpathy 2026) is ``normuon(lr, ns_coeffs="nanochat", normalize="outputs", b2=0.9, longer=True,
    normalize_after="frobenius", decay="cautious_by_shape")``.

    Departures: none; there are no bias corrections.

    Args:
      learning_rate: a number or a schedule; like Muon's, 0.02.
      beta: decay of the momentum, in [0, 1).
      b2: decay of a neuron's mean square, in [0, 1).
      ns_coeffs: see :func:`muon`, like all following arguments.
      ns_steps: number of steps of the iteration.
      eps: added to the norm of the momentum, and to Adam's root.
      nesterov: use Nesterov momentum.
      normalize: see :func:`muon`.
      normalize_after: see :func:`muon`; before v is measured.
      longer: average over the neurons of the longer side: the inputs, where there are more of them.
      min_square: lower bound of v in the root; 1e-10 in modded-nanogpt.
      contra: see :func:`muon`, like the following arguments.
      shape: factor of the update by fan-in and fan-out.
      consistent_rms: root mean square of every update.
      min_ratio: smallest norm of an update relative to the weights' norm.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
      decay: "plain", "cautious" or "cautious_by_shape".
      mu_dtype: dtype that the momentum is stored in.
      ns_dtype: dtype that the iteration multiplies in.
      adam_b1: AdamW's b1.
      adam_b2: AdamW's b2.
      adam_weight_decay: AdamW's weight_decay.
      adam_learning_rate: AdamW's learning rate; None is ``learning_rate``.
      rest: optimizer for all other parameters, in place of AdamW.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`.

    Returns:
      A transformation; 4 bytes of state per float32 parameter of a matrix, and 4 per output neuron.
    """
    layout = infer if layout is None else layout
    how = {"nesterov": nesterov, "normalize": normalize, "contra": contra, "ns_dtype": ns_dtype, "layout": layout}
    size = {"shape": shape, "consistent_rms": consistent_rms, "min_ratio": min_ratio, "layout": layout}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "decay": decay}
    matrices = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, debias=False, **how),
        *[normalize_neurons(normalize_after or "both", layout=layout)] * (normalize_after is not None),
        scale_by_normuon(b2, layout, longer=longer, min_square=min_square),
        *scaled_and_decayed(learning_rate, **size, **reduce),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout, "mu_dtype": mu_dtype}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
