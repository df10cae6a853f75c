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
from jaxopt_mini.linalg import multiply
from jaxopt_mini.matrices import as_leaves, map_matrices, resolve_layout, wide_matrices
from jaxopt_mini.optimizers._muon import scaled_and_decayed, with_adam_on_rest
from jaxopt_mini.orthogonal import Coefficients, coefficients, newton_schulz
from jaxopt_mini.transforms.moments import ema
from jaxopt_mini.tree import absolute_square, cast_like

TINY = 1e-7  # smallest norm of a row that is divided by
Polar = Callable[[jax.Array], jax.Array]


def balanced(polar: Polar, iterations: int, power: ArrayLike) -> Polar:
    """Aurora's polar factor of a tall matrix (m, n): its rows are scaled until those of the factor are equal."""

    def function(u):
        scale = 1 / jnp.maximum(jnp.sqrt(_sizes(u)), TINY)
        new = polar(scale * u)
        for _ in range(iterations - 1):
            scale = scale * (u.shape[1] / u.shape[0] / jnp.maximum(_sizes(new), TINY**2)) ** power
            new = polar(scale * u)
        return new

    return function


def ascended(
    polar: Polar, steps: int | jax.Array, size: ArrayLike, cg_steps: int | jax.Array, retractions: int | jax.Array
) -> Polar:
    """Riemannian Aurora's factor of a tall matrix G (m, n), see :func:`aurora`.

    It takes ``steps`` of ascent on <U, G> along the matrices U with U'U = 1 whose rows have equal norms.
    """

    def function(g):
        ratio = g.shape[1] / g.shape[0]

        def retract(_, y):
            return polar(y * (ratio**0.5 / jnp.maximum(jnp.sqrt(_sizes(y)), TINY)))

        def ascend(_, u):
            dual = u.conj().mT
            b = multiply(dual, g)
            b = (b + b.conj().mT) / 2
            excess = _centered(_inner_rows(g, u) - _inner_rows(multiply(u, b), u))
            weights = _centered(_multipliers(u, ratio, excess, cg_steps))[:, None]
            tangent = g - multiply(u, b - multiply(dual, weights * u)) - weights * u
            new = jax.lax.fori_loop(0, retractions, retract, u + size * tangent)
            return jnp.where(jnp.all(jnp.isfinite(tangent)), new, u)

        return jax.lax.fori_loop(0, steps, ascend, polar(g))

    return function


def _sizes(matrix: jax.Array) -> jax.Array:
    return jnp.sum(absolute_square(matrix), 1, keepdims=True)


def _inner_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.real(jnp.sum(a * b.conj(), 1))


def _centered(vector: jax.Array) -> jax.Array:
    return vector - jnp.mean(vector)


def _multipliers(u: jax.Array, ratio: float, target: jax.Array, steps: int | jax.Array) -> jax.Array:
    """Solves (r I - P * P) x = target with P = U U' by conjugate gradients; r = ratio, or what makes it positive."""
    r = jnp.maximum(ratio, jnp.max(_sizes(u)) ** 2 + 1e-3)
    accuracy = 1e-8 * jnp.maximum(jnp.linalg.norm(target), 1e-12)

    def step(carry):
        count, _, x, residual, direction, size = carry
        image = multiply(u, multiply(u.conj().mT, direction[:, None] * u))
        image = r * direction - _inner_rows(image, u)
        curvature = direction @ image
        curved = curvature >= 1e-30
        length = jnp.where(curved, size / jnp.where(curved, curvature, 1.0), 0.0)
        x, residual = x + length * direction, residual - length * image
        new = residual @ residual
        unfinished = curved & (jnp.sqrt(new) >= accuracy) & jnp.isfinite(new)
        direction = residual + new / jnp.maximum(size, 1e-30) * direction
        return count + 1, unfinished, x, residual, direction, new

    first = (jnp.int32(0), jnp.bool_(True), jnp.zeros_like(target), target, target, target @ target)
    x = jax.lax.while_loop(lambda carry: (carry[0] < steps) & carry[1], step, first)[2]
    return jnp.where(jnp.all(jnp.isfinite(x)), x, 0.0)


def balanced_polar(
    iterations: int | jax.Array = 2,
    power: ArrayLike = 0.5,
    *,
    riemannian_steps: int | jax.Array = 0,
    riemannian_step_size: ArrayLike = 0.1,
    cg_steps: int | jax.Array = 20,
    retraction_steps: int | jax.Array = 2,
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
    check_nonnegative(power=power, ns_steps=ns_steps, riemannian_step_size=riemannian_step_size, cg_steps=cg_steps)
    check_nonnegative(riemannian_steps=riemannian_steps, retraction_steps=retraction_steps)
    check_static(iterations=iterations, riemannian_steps=riemannian_steps)

    def polar(matrix):
        return newton_schulz(matrix, coefficients(ns_coeffs, ns_steps), ns_steps, eps=TINY, dtype=ns_dtype)

    if riemannian_steps:
        tall = ascended(polar, riemannian_steps, riemannian_step_size, cg_steps, retraction_steps)
    else:
        tall = balanced(polar, int(iterations), power)

    def one(u):
        if u.shape[0] == u.shape[1]:
            return polar(u)
        return tall(u) if u.shape[0] > u.shape[1] else tall(u.mT).mT

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries = resolve_layout(layout, updates)
        new = map_matrices(one, entries, *wide_matrices(entries, updates))
        return cast_like(as_leaves(new, entries, updates), updates), state

    return keep_shardings(no_state, update)


def aurora(
    learning_rate: ScalarOrSchedule,
    *,
    beta: ArrayLike = 0.95,
    nesterov: bool = True,
    iterations: int | jax.Array = 2,
    power: ArrayLike = 0.5,
    riemannian_steps: int | jax.Array = 0,
    riemannian_step_size: ArrayLike = 0.1,
    cg_steps: int | jax.Array = 20,
    retraction_steps: int | jax.Array = 2,
    ns_coeffs: Coefficients = "convergent",
    ns_steps: int | jax.Array = 12,
    ns_dtype: DTypeLike | None = None,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.025,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
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

    Riemannian Aurora, in the same repository, is ``riemannian_steps=3``: from the polar factor of u it ascends <o, u>
    along the orthogonal o whose neurons on the longer side have norm sqrt(n / m). Its gradient, projected on the
    tangent space, is not normalized, so that the result depends on the size of u: lower ``riemannian_step_size`` for
    gradients of norm above 10.

    Args:
      learning_rate: a number or a schedule; 0.05.
      beta: decay of the momentum, in [0, 1).
      nesterov: use Nesterov momentum.
      iterations: number of polar factors; the last one is the update.
      power: power of the correction of d.
      riemannian_steps: steps of ascent in place of the correction of d; 0 is Aurora, 3 Riemannian Aurora.
      riemannian_step_size: length of a step of ascent, in units of the projected gradient.
      cg_steps: largest number of steps of conjugate gradients for a projection.
      retraction_steps: how often each step normalizes the neurons and takes the polar factor.
      ns_coeffs: see :func:`muon`.
      ns_steps: number of steps of each iteration.
      ns_dtype: dtype that it multiplies in.
      eps: added to Adam's root.
      weight_decay: a number or a schedule, times the learning rate.
      weight_decay_mask: matrices to decay, a tree of booleans or a function of the parameters that returns one.
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
    how |= {"riemannian_steps": riemannian_steps, "riemannian_step_size": riemannian_step_size}
    how |= {"cg_steps": cg_steps, "retraction_steps": retraction_steps}
    reduce = {"weight_decay": weight_decay, "weight_decay_mask": weight_decay_mask, "layout": layout}
    matrices = chain(
        ema(beta, debias=False, nesterov=nesterov),
        balanced_polar(iterations, power, **how),
        *scaled_and_decayed(learning_rate, **reduce),
    )
    adam = {"adam_learning_rate": adam_learning_rate, "adam_b1": adam_b1, "adam_b2": adam_b2, "eps": eps}
    others = {"adam_weight_decay": adam_weight_decay, "rest": rest, "layout": layout}
    return with_adam_on_rest(matrices, learning_rate, **adam, **others)
