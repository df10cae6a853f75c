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
from jaxopt_mini.check import check_fraction, check_name, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.explicit import keep_shardings
from jaxopt_mini.layout import per_copy
from jaxopt_mini.matrices import (
    as_leaves,
    as_matrices,
    layout_or_dimension_numbers,
    map_matrices,
    matrices_and_rest,
    resolve_layout,
)
from jaxopt_mini.optimizers._adam import scale_by_adam
from jaxopt_mini.orthogonal import POLARS, PRECONDITIONINGS, STANDARD, Coefficients, coefficients, orthogonalize
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.transforms.neurons import MODES, OF, keep_above, normalize as normalize_neurons, normalized
from jaxopt_mini.transforms.radial import brake, land
from jaxopt_mini.transforms.shape import SHAPES, consistent, scale_by_shape
from jaxopt_mini.tree import average, bias_correction, cast_like, increment, norm, zeros_like


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
    polar: str = "newton_schulz",
    normalize: str | None = None,
    normalize_power: ArrayLike = 0.5,
    normalize_eps: ArrayLike = 1e-8,
    normalize_steps: int | jax.Array | None = None,
    contra: ArrayLike | None = None,
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
      polar: a name in ``jaxopt_mini.orthogonal.POLARS``.
      normalize: a name in ``jaxopt_mini.transforms.neurons.MODES``.
      normalize_power: power of the sum of squares by which it divides.
      normalize_eps: added to the sum of squares.
      normalize_steps: first step that normalizes only the outputs; None is never.
      contra: share of the momentum to subtract.
      weight_dimension_numbers: Optax's form of a layout: tree of ``optax.contrib.MuonDimensionNumbers``.
      debias: correct the bias of the momentum towards zero.
      ns_dtype: dtype that the iteration multiplies in.
      layout: a layout or a function of the parameters that returns one; None takes every leaf with two axes.

    Returns:
      A transformation with an ``optax.contrib.MuonState``, with count int32[], mu like the parameters, ns_coeffs.
    """
    check_fraction(beta=beta)
    check_nonnegative(eps=eps, ns_steps=ns_steps, contra=contra)
    check_nonnegative(normalize_power=normalize_power, normalize_eps=normalize_eps, normalize_steps=normalize_steps)
    check_name(polar, POLARS, "unknown polar")
    check_name(normalize or "both", MODES, "unknown normalize")
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

    def balanced(matrix, count):
        """MuonEq's scale of rows and columns."""
        new = normalized(matrix, normalize or "both", normalize_eps, normalize_power)
        if normalize_steps is None:
            return new
        outputs = normalized(matrix, "outputs", normalize_eps, normalize_power)
        return jnp.where(count < normalize_steps, new, outputs)

    def init(params):
        coeffs = coefficients(ns_coeffs, ns_steps)
        return MuonState(jnp.zeros((), jnp.int32), zeros_like(params, mu_dtype), coeffs)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        count, mu = increment(state.count), average(updates, state.mu, beta)
        m = direction(updates, mu, count)
        entries, how = resolve_layout(layout, m), {"preconditioning": preconditioning, "eps": eps, "dtype": ns_dtype}
        if normalize:
            scaled = jax.tree.map(lambda matrix: balanced(matrix, count), as_matrices(m, entries))
            m = as_leaves(scaled, entries, m)
        new = orthogonalize(m, entries, state.ns_coeffs, ns_steps, polar=polar, **how)
        if contra is not None:
            new = _on_matrices(lambda o, u: _against(o, u, contra), entries, new, m)
        if adaptive:
            new = jax.tree.map(lambda o, m, entry: per_copy(_by_dual_norm, entry)(o, m), new, m, entries)
        return cast_like(new, updates), MuonState(count, cast_like(mu, state.mu), state.ns_coeffs)

    return keep_shardings(init, update)


def _on_matrices(function, entries, new, *others):
    matrices = (as_matrices(tree, entries) for tree in (new, *others))
    return as_leaves(map_matrices(function, entries, *matrices), entries, new)


def _against(orthogonal, momentum, share):
    """Subtracts ``share / 2`` of the momentum over its spectral norm; the norm of the result is unchanged.

    The spectral norm is estimated by five power iterations from a vector of ones, as in the official code.
    """
    v = jnp.full(len(momentum), len(momentum) ** -0.5, momentum.dtype)
    for _ in range(5):
        a = _unit(momentum.mT @ v)
        v = _unit(momentum @ a)
    size = jnp.linalg.norm(momentum.mT @ v)
    new = orthogonal - share / 2 * momentum / jnp.where(size > 0, size, jnp.inf)
    length = norm(new)
    return new * (norm(orthogonal) / jnp.where(length > 0, length, jnp.inf))


def _unit(vector):
    size = jnp.linalg.norm(vector)
    return vector / jnp.where(size > 0, size, jnp.inf)


def scaled_and_decayed(
    learning_rate: ScalarOrSchedule | None,
    *,
    shape: str = "widening",
    consistent_rms: ArrayLike | None = None,
    min_ratio: ArrayLike | None = None,
    min_ratio_of: str = "matrix",
    min_ratio_power: ArrayLike = 1.0,
    radial: tuple[ArrayLike, ArrayLike] | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    decay: str = "plain",
    layout: Any | Callable[[Params], Any] | None = None,
) -> list[GradientTransformation]:
    """The last links of Muon and its relatives, see :func:`muon`: scale by shape, floor, weight decay, learning rate.

    With ``radial`` or ``decay="cautious_late"`` one link applies the learning rate and what follows it.

    Raises:
      ValueError: a name is unknown, or a number is out of range.
    """
    check_name(shape, SHAPES, "unknown shape")
    check_name(decay, DECAYS, "unknown decay")
    check_name(min_ratio_of, OF, "unknown part to keep above a share")
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay, consistent_rms=consistent_rms)
    check_nonnegative(min_ratio=min_ratio, min_ratio_power=min_ratio_power)
    sized = [scale_by_shape(SHAPES[shape] if consistent_rms is None else consistent(consistent_rms), layout)]
    sized += [] if radial is None else [brake(*radial, layout)]
    sized += [] if min_ratio is None else [keep_above(min_ratio, layout, of=min_ratio_of, power=min_ratio_power)]
    late = decay == "cautious_late"
    if late or radial is not None:
        if learning_rate is None:
            raise ValueError('radial and decay="cautious_late" act on the step: give a learning rate')
        before = [] if late else [add_decayed_weights(weight_decay, weight_decay_mask, cautious=decay != "plain")]
        after = (weight_decay if late else 0.0, weight_decay_mask)
        return [*sized, *before, land(learning_rate, *after, pin=radial is not None, layout=layout)]
    decayed = [add_decayed_weights(weight_decay, weight_decay_mask, cautious=decay != "plain")]
    links = decayed + sized if decay == "cautious_by_shape" else sized + decayed
    return [*links, scale_by_learning_rate(learning_rate)]


def with_adam_on_rest(
    matrices: GradientTransformation,
    learning_rate: ScalarOrSchedule | None,
    *,
    adam_learning_rate: ScalarOrSchedule | None,
    adam_b1: ArrayLike,
    adam_b2: ArrayLike,
    adam_weight_decay: ScalarOrSchedule,
    eps: ArrayLike,
    rest: GradientTransformation | None,
    layout: Any | Callable[[Params], Any] | None,
    mu_dtype: DTypeLike | None = None,
) -> GradientTransformation:
    """Applies ``matrices`` to hidden matrices and AdamW, or ``rest``, to all other parameters.

    Raises:
      ValueError: a number of AdamW is out of range.
    """
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    check_fraction(adam_b1=adam_b1, adam_b2=adam_b2)
    check_nonnegative(adam_learning_rate=rate, adam_weight_decay=adam_weight_decay)
    adam = chain(
        scale_by_adam(adam_b1, adam_b2, eps, mu_dtype=mu_dtype),
        add_decayed_weights(adam_weight_decay),
        scale_by_learning_rate(rate),
    )
    return matrices_and_rest({"matrices": matrices, "rest": adam if rest is None else rest}, layout)


DECAYS = ("plain", "cautious", "cautious_by_shape", "cautious_late")


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
    polar: str = "newton_schulz",
    normalize: str | None = None,
    normalize_power: ArrayLike = 0.5,
    normalize_eps: ArrayLike = 1e-8,
    normalize_steps: int | jax.Array | None = None,
    normalize_after: str | None = None,
    contra: ArrayLike | None = None,
    shape: str = "widening",
    min_ratio: ArrayLike | None = None,
    min_ratio_of: str = "matrix",
    min_ratio_power: ArrayLike = 1.0,
    radial: tuple[ArrayLike, ArrayLike] | None = None,
    decay: str = "plain",
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

    Variants: MuonEq (Chang et al. 2026, arXiv 2603.28254) balances the neurons of u, ``normalize="outputs"``; Muon+
    (Zhang et al. 2026, arXiv 2602.21545) those of o, ``normalize_after="outputs_inputs"``, with ``shape="spectral"``;
    Contra-Muon (modded-nanogpt 2026) subtracts a part of u from o, ``contra=0.4, min_ratio=0.35``; its Muon with a row
    floor is ``preconditioning="schatten", min_ratio=0.3825, min_ratio_of="outputs", radial=(0.5, 1.0),
    weight_decay=0.025, decay="cautious_late"``; Cautious Muon (Chen et al. 2025, arXiv 2510.12402) only decays what
    doesn't move away from zero, ``decay="cautious"``.

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
      polar: "newton_schulz", or "qdwh" (Nakatsukasa et al. 2010), exact with ``ns_steps=6``.
      normalize: before the iteration, scale each neuron's weights to norm 1: of "outputs", "inputs", "both" at once,
        or one after the other, "outputs_inputs" or "inputs_outputs"; None doesn't.
      normalize_power: power of the sum of squares by which it divides; 0.5 is the norm.
      normalize_eps: added to the sum of squares.
      normalize_steps: from this step on (from 1), normalize the outputs only; None never changes.
      normalize_after: as ``normalize``, after the iteration; also "frobenius", the norm of an orthogonal matrix.
      contra: subtract half this share of u, in units of its spectral norm, from o; None doesn't.
      shape: factor of the update by fan-in and fan-out: "widening" as above, "spectral", sqrt(fan_out / fan_in), or
        "none".
      min_ratio: scale up updates whose norm is below this share of the weights' norm; None doesn't.
      min_ratio_of: what ``min_ratio`` compares, the whole "matrix" or each neuron of the "outputs".
      min_ratio_power: power of the factor of ``min_ratio``.
      radial: (outward, inward), factors of the part of o along p, for steps that lengthen p and for others; only this
        part then changes the norm of p; None doesn't.
      decay: "plain"; "cautious", only of entries that o doesn't move away from zero; "cautious_by_shape", the same
        times the factor of ``shape``; or "cautious_late", of entries that o moves towards zero, after the step.
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
    check_nonnegative(adam_learning_rate=adam_learning_rate, adam_weight_decay=adam_weight_decay)
    check_nonnegative(adam_eps_root=adam_eps_root)
    check_fraction(adam_b1=adam_b1, adam_b2=adam_b2)
    chosen = layout_or_dimension_numbers(layout, muon_weight_dimension_numbers)
    how = {"nesterov": nesterov, "adaptive": adaptive, "preconditioning": preconditioning, "debias": debias}
    balance = {"normalize": normalize, "normalize_power": normalize_power, "normalize_eps": normalize_eps}
    how |= {"polar": polar, "normalize_steps": normalize_steps, "contra": contra, **balance}
    size = {"shape": shape, "consistent_rms": consistent_rms, "min_ratio": min_ratio, "radial": radial}
    size |= {"min_ratio_of": min_ratio_of, "min_ratio_power": min_ratio_power}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "decay": decay}
    matrices = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, mu_dtype, ns_dtype=ns_dtype, layout=chosen, **how),
        *[normalize_neurons(normalize_after or "both", layout=chosen)] * (normalize_after is not None),
        *scaled_and_decayed(learning_rate, **size, **reduce, layout=chosen),
    )
    adam = chain(
        scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(adam_weight_decay),
        scale_by_learning_rate(learning_rate if adam_learning_rate is None else adam_learning_rate),
    )
    return matrices_and_rest({"muon": matrices, "adam": adam if rest is None else rest}, chosen)
