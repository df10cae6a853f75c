"""KL-SOAP: SOAP whose factors average the gradient whitened on the other side."""

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
from jaxopt_mini.linalg import multiply
from jaxopt_mini.matrices import (
    Sides,
    as_leaves,
    map_with_sides,
    on_sides,
    resolve_layout,
    sides,
    wide_matrices,
)
from jaxopt_mini.optimizers._soap import adam_step, checked_dim, eigenvectors, initial_state, inverse, power_iteration
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    absolute_square,
    average,
    cast_like,
    increment,
    is_multiple,
    mean,
    total_weight,
)

EIGENVALUES = ("average", "factors")
REFRESHES = ("qr", "eigh")
START = 0.1  # first estimate of every eigenvalue, from the official code
SMALLEST = 1 / 4000**2  # smallest estimate, from the official code


class ScaleByKlSoapState(NamedTuple):
    """State of :func:`scale_by_kl_soap`."""

    count: jax.Array  # int32[]: completed steps
    mu: Updates  # like the parameters
    nu: Updates  # (*stacked, inputs, outputs), in the basis
    factors: tuple[Any, Any]  # of inputs and outputs: (*stacked, side, side), or () for none
    bases: tuple[Any, Any]  # their eigenvectors in columns, by approximately descending eigenvalues
    values: tuple[Any, Any]  # estimates of their eigenvalues: (*stacked, side), or () for none


def scale_by_kl_soap(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    *,
    shampoo_beta: ArrayLike | None = None,
    precondition_frequency: int | jax.Array = 1,
    max_precond_dim: int | jax.Array = 10000,
    eigenvalues: str = "average",
    refresh: str = "qr",
    debias: bool = True,
    mu_dtype: DTypeLike | None = None,
    layout: Any | Callable[[Params], Any] | None = None,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`kl_soap`, with the same arguments, without decay and learning rate.

    Returns:
      A transformation with a :class:`ScaleByKlSoapState`.
    """
    check_fraction(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check_nonnegative(eps=eps)
    check_name(eigenvalues, EIGENVALUES, "unknown eigenvalues")
    check_name(refresh, REFRESHES, "unknown refresh")
    longest = checked_dim(max_precond_dim, precondition_frequency)
    beta = b2 if shampoo_beta is None else shampoo_beta
    correct = "moments" if debias else None
    late = eigenvalues == "average"  # the basis is updated after the step, and the first call makes none

    def init(params):
        count, mu, nu, factors, bases = initial_state(params, layout, longest, mu_dtype)
        values = jax.tree.map(lambda f: f[..., 0] + float(late) if f.ndim else jnp.copy(f), factors)
        return ScaleByKlSoapState(count, mu, nu, factors, bases, values)

    def turned(factors, bases, first):
        if refresh == "eigh":
            return eigenvectors(factors)
        iterate = lambda: power_iteration(None, factors, bases, is_sorted=False)[1]
        return jax.lax.cond(first, lambda: eigenvectors(factors), iterate)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        entries, k = resolve_layout(layout, updates), state.count
        first, t = k == 0, jnp.maximum(k, 1) if late else k + 1
        due = first | is_multiple(t, precondition_frequency)
        decay = jnp.where(first, 0.0, beta) if late else 1 - (1 - beta) / total_weight(beta, t)

        def one(g, mu, nu, factors, bases, values):
            learned = sides(lambda old, new: average(new, old, decay), factors, _whitened_grams(g, bases, values, eps))
            if not late:
                new = lambda: _in_order(learned, turned(learned, bases, first))
                bases, values = jax.lax.cond(due, new, lambda: (bases, values))
            h = on_sides(g, bases)
            m, v = average(g, mu, b1), average(absolute_square(h), nu, b2)
            step = on_sides(adam_step(on_sides(m, bases), v, b1, b2, eps, t, correct), inverse(bases))
            if late:
                m, v, step = (jnp.where(first, *pair) for pair in ((mu, m), (nu, v), (0.0 * step, step)))
                found = sides(
                    lambda old, new: jnp.maximum(average(new, old, beta), SMALLEST), values, _squares(h, values)
                )
                values = sides(lambda new: jnp.where(first, START, new), found)
                bases = jax.lax.cond(due, lambda: turned(learned, bases, first), lambda: bases)
            return step, m, v, learned, bases, values

        trees = (*wide_matrices(entries, updates, state.mu), state.nu)
        step, mu, nu, *pairs = map_with_sides(one, entries, trees, (state.factors, state.bases, state.values), 3)
        step, mu = (as_leaves(tree, entries, updates) for tree in (step, mu))
        return cast_like(step, updates), ScaleByKlSoapState(increment(k), cast_like(mu, state.mu), nu, *pairs)

    return keep_shardings(init, update)


def _scaled(matrix, values, eps):
    """Divides rows and columns by the roots of the eigenvalues of the inputs and the outputs."""
    roots = sides(lambda v: jax.lax.rsqrt(jnp.maximum(v, eps)), values)
    matrix = matrix if roots.inputs is None else matrix * roots.inputs[:, None]
    return matrix if roots.outputs is None else matrix * roots.outputs[None, :]


def _whitened(matrix, bases, values, eps):
    """The matrix whitened on the outputs only, then on the inputs only."""

    def without(**side):
        return _scaled(on_sides(matrix, bases._replace(**side)), values._replace(**side), eps)

    return without(inputs=None), without(outputs=None)


def _whitened_grams(g, bases, values, eps):
    """For each side, the mean outer product of the gradient whitened on the other side."""
    by_outputs, by_inputs = _whitened(g, bases, values, eps)
    rows, columns = (max(1, length) for length in g.shape)
    return Sides(multiply(by_outputs, by_outputs.conj().mT) / columns, multiply(by_inputs.conj().mT, by_inputs) / rows)


def _squares(h, values):
    """For each side, the mean squares of the rotated gradient, whitened on the other side."""
    by_outputs, by_inputs = map(absolute_square, _whitened(h, Sides(None, None), values, 0.0))
    return Sides(mean(by_outputs, 1), mean(by_inputs, 0))


def _in_order(factors, bases):
    """The bases and the eigenvalues of the factors in them, both by descending eigenvalues."""
    values = sides(lambda q, factor: jnp.sum(q.conj() * multiply(factor, q), axis=0).real, bases, factors)
    order = sides(lambda v: jnp.argsort(-v), values)
    return sides(lambda q, i: q[:, i], bases, order), sides(lambda v, i: v[i], values, order)


def kl_soap(
    learning_rate: ScalarOrSchedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    shampoo_beta: ArrayLike | None = None,
    precondition_frequency: int | jax.Array = 1,
    max_precond_dim: int | jax.Array = 10000,
    eigenvalues: str = "average",
    refresh: str = "qr",
    debias: bool = True,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Any | Callable[[Params], Any] | None = None,
    mu_dtype: DTypeLike | None = None,
    layout: Any | None = None,
) -> GradientTransformation:
    """Adam in the eigenbasis of KL-Shampoo's preconditioner.

    Lin et al., "Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization" (2025,
    arXiv 2509.03378). Descends from :func:`soap`. For a matrix g (m, n)::

        x = g Q_R / sqrt(a_R)                     y = Q_L' g / sqrt(a_L)
        L <- b L + (1 - b) x x' / n               a_L <- b a_L + (1 - b) mean_j (Q_L' x)^2
        R <- b R + (1 - b) y' y / m               a_R <- b a_R + (1 - b) mean_i (y Q_R)^2
        p <- p - lr (Q_L adam(Q_L' g Q_R) Q_R' + weight_decay p)

    with the eigenvectors Q of L and R, and the estimates a of their eigenvalues, which divide columns of x, rows of y.
    Each side only sees what the other one doesn't explain, so that L and R together fit the covariance of the gradient.
    The first call only initializes L and R, unwhitened, and the eigenvalues a to 0.1; later calls update Q after the
    step by one QR decomposition. Vectors, and sides longer than ``max_precond_dim``, are not rotated.

    NVIDIA's forms take the eigenvalues from the factors and update the basis before the step: KL-SOAP is
    ``kl_soap(lr, eigenvalues="factors")``, REKLS is that with ``refresh="eigh"``; since the eigenvalues start from 0,
    their first gradient counts 1 / eps times as much as later ones. KL-SOAP-H (modded-nanogpt 2026) is
    ``hyperball(kl_soap(1.0, b1=0.95, b2=0.9, debias=False, weight_decay=0.0))``.

    Args:
      learning_rate: a number or a schedule; Adam's.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean square of the rotated gradient, in [0, 1).
      eps: added to the root, and smallest eigenvalue.
      shampoo_beta: decay b of L, R and their eigenvalues, in [0, 1); None is ``b2``.
      precondition_frequency: steps between updates of the basis.
      max_precond_dim: longest side with a basis.
      eigenvalues: "average" as above, or those of the "factors".
      refresh: update of the basis, one "qr" decomposition or an eigendecomposition, "eigh".
      debias: correct the biases of both moments, as in Adam.
      weight_decay: a number or a schedule, times the learning rate.
      mask: leaves to decay, a tree of booleans or a function of the parameters that returns one; None is all.
      mu_dtype: dtype that the mean is stored in; None uses each parameter's dtype.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`; None infers it.

    Returns:
      A transformation; 8 + 8 (m^2 + n^2) / mn bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or a name is unknown.

    >>> tx = kl_soap(0.1, weight_decay=0.0)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> state = tx.init(params)
    >>> for grad in (jnp.array([[3.0, 0.0], [0.0, 1.0]]),) * 2:
    ...     updates, state = tx.update({"w": grad}, state, params)
    >>> print(updates["w"].round(3))
    [[-0.1 -0. ]
     [-0.  -0.1]]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    how = {"precondition_frequency": precondition_frequency, "max_precond_dim": max_precond_dim, "debias": debias}
    how |= {"eigenvalues": eigenvalues, "refresh": refresh, "mu_dtype": mu_dtype, "layout": layout}
    return chain(
        scale_by_kl_soap(b1, b2, eps, shampoo_beta=shampoo_beta, **how),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
