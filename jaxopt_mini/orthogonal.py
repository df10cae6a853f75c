"""Newton-Schulz iteration: approximates the orthogonal factor U V' of G = U S V' by matrix products alone.

An odd polynomial a x + b x^3 + c x^5, applied to a matrix as a X + b X X'X + c (X X')^2 X, acts on its singular values
and leaves its singular vectors unchanged. With coefficients that move (0, 1] towards 1, a few steps orthogonalize X.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from jaxopt_mini import linalg
from jaxopt_mini.check import check_static
from jaxopt_mini.linalg import eigh
from jaxopt_mini.matrices import as_leaves, as_matrices, map_matrices
from jaxopt_mini.tree import norm, wide_dtype, widen

Tree = Any
Coefficients: TypeAlias = str | ArrayLike | Sequence[Any]
"""A name, three numbers used in every step, or a row of three per step."""

STANDARD = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steep at 0; singular values end between 0.7 and 1.2
DION = (  # Ahn et al. 2025, arXiv 2504.05295
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
# Amsel et al. 2025, arXiv 2505.16932: each row is optimal for the interval to which the rows before it map [1e-3, 1],
# widened by 1 % so that rounding above 1 does no harm; the last row is a fixed point.
POLAR_EXPRESS = (
    *(
        (a / 1.01, b / 1.01**3, c / 1.01**5)
        for a, b, c in (
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
            (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
            (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
        )
    ),
    (1.875, -1.25, 0.375),
)
_FIVE = (  # the first rows for [1e-3, 1] and five steps, as modded-nanogpt computed them; the norm is divided out apart
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
JIACHENG = (  # You Jiacheng 2025, in modded-nanogpt
    (3955 / 1024, -8306 / 1024, 5008 / 1024),
    (3735 / 1024, -6681 / 1024, 3463 / 1024),
    (3799 / 1024, -6499 / 1024, 3211 / 1024),
    (4019 / 1024, -6385 / 1024, 2906 / 1024),
    (2677 / 1024, -3029 / 1024, 1162 / 1024),
    (2172 / 1024, -1833 / 1024, 682 / 1024),
)


def _shrunk(rows: Sequence[Sequence[float]], by: float) -> tuple[tuple[float, ...], ...]:
    """The same steps on a matrix divided by ``by`` first."""
    (a, b, c), *others = rows
    return ((a / by, b / by**3, c / by**5), *map(tuple, others))


COEFFICIENTS: dict[str, tuple[Any, ...]] = {
    "standard": STANDARD,
    "muon": STANDARD,
    "dion": DION,
    "polar_express": POLAR_EXPRESS,
    "dion2": _shrunk(_FIVE, 1.02),
    "nanochat": _shrunk(_FIVE, 1.01),
    "jiacheng": JIACHENG,
    "convergent": (2.0, -1.5, 0.5),  # slow, but in 12 steps nearly exact
}

# Rounding errors in a Gram matrix grow by a^2 per step where singular values are small. Recomputing the iterate and its
# Gram matrix every three steps keeps the result as close to exact arithmetic as the plain iteration's.
GRAM_STEPS = 3


def coefficients(ns_coeffs: Coefficients, steps: int | jax.Array) -> jax.Array:
    """Returns the coefficients (a, b, c) as an array.

    Args:
      ns_coeffs: a name in ``COEFFICIENTS``, three numbers used in every step, or a row of three per step.
      steps: number of steps; a table with more rows is truncated.

    Returns:
      float32 (3,) or (steps, 3).

    Raises:
      ValueError: the name is unknown, the shape is neither (3,) nor (rows, 3), or the number of rows is traced.
    """
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in COEFFICIENTS:
            raise ValueError(f"unknown ns_coeffs={ns_coeffs!r}: choose from {', '.join(COEFFICIENTS)}")
        ns_coeffs = COEFFICIENTS[ns_coeffs]
    table = jnp.array(ns_coeffs, jnp.float32)
    if table.ndim not in (1, 2) or table.shape[-1] != 3:
        raise ValueError(f"ns_coeffs has shape {table.shape}: give three numbers, or a row of three per step")
    if table.ndim == 2:
        check_static(ns_steps=steps)
        return table[:steps]
    return table


def _spectral(gram):
    return eigh(gram)[0][-1]


def _aol(gram):
    return jnp.sum(jnp.abs(gram), axis=-1, keepdims=True)


def _schatten(gram):
    return norm(gram)


# Functions of X X'; before the first step the rows of X are divided by the square root of the result.
PRECONDITIONINGS: dict[str, Callable[..., Any] | None] = {
    "frobenius": None,
    "spectral": _spectral,
    "aol": _aol,
    "schatten": _schatten,
}


def arithmetic(rows: int, columns: int, steps: int) -> tuple[int, int]:
    """Number of multiplications of the plain iteration and of that on the Gram matrix, for rows <= columns.

    >>> plain, gram = arithmetic(768, 3072, 5)
    >>> round(gram / plain, 2)
    0.67
    """
    restarts = -(-steps // GRAM_STEPS)
    plain = steps * (2 * rows**2 * columns + rows**3)
    gram = restarts * 2 * rows**2 * columns + (4 * steps - 3 * restarts) * rows**3
    return plain, gram


def newton_schulz(
    matrix: jax.Array,
    coeffs: jax.Array,
    steps: int | jax.Array = 5,
    *,
    preconditioning: str = "frobenius",
    eps: ArrayLike = 1e-8,
    dtype: DTypeLike | None = None,
    gram: bool | None = None,
) -> jax.Array:
    """Moves the singular values of a matrix towards 1.

    Args:
      matrix: (rows, columns).
      coeffs: (3,) for ``steps`` steps, or (steps, 3).
      steps: number of steps where ``coeffs`` is (3,); may be traced.
      preconditioning: a name in ``PRECONDITIONINGS``: how the singular values are scaled below 1 beforehand.
      eps: added to the norm; matrices of a smaller norm shrink towards 0.
      dtype: dtype of the factors of each product; products accumulate in at least float32. None uses at least float32.
      gram: iterate on the Gram matrix; None does so in float32 where it takes fewer operations. Equal to the plain
        iteration up to rounding; needs at least float32.

    Returns:
      (rows, columns), in at least float32; zeros map to zeros.

    >>> matrix = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    >>> print(newton_schulz(matrix, coefficients("polar_express", 7), 7).round(3))
    [[1. 0. 0.]
     [0. 1. 0.]]
    """
    counted = coeffs.ndim == 1 and isinstance(steps, Tracer)
    coeffs = jnp.broadcast_to(coeffs, (steps, 3)) if coeffs.ndim == 1 and not counted else coeffs
    x = widen(matrix)
    if not x.size:
        return x
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    wide, dtype = x.dtype, jnp.dtype(dtype or x.dtype)

    def multiply(left, right):
        left, right = left.astype(dtype), right.astype(dtype)
        return jnp.matmul(left, right, precision="highest", preferred_element_type=wide)

    x = x / (norm(x) + eps).astype(wide)
    measure = PRECONDITIONINGS[preconditioning]
    if measure is not None:
        size = jnp.maximum(measure(multiply(x, x.conj().mT)), eps)
        x = x * jax.lax.rsqrt(size).astype(wide)
    if counted:
        x = jax.lax.fori_loop(0, steps, lambda _, x: _step(x, coeffs.astype(wide), multiply), x)
        return x.mT if tall else x
    if gram is None:
        rows, columns = x.shape
        plain, small = arithmetic(rows, columns, len(coeffs))
        gram = small < plain and wide_dtype(dtype) == dtype
    x = (_on_gram if gram else _plain)(x, coeffs.astype(wide), multiply)
    return x.mT if tall else x


def _plain(x, coeffs, multiply):
    return jax.lax.scan(lambda x, abc: (_step(x, abc, multiply), None), x, coeffs)[0]


def _step(x, abc, multiply):
    a, b, c = abc
    gram = multiply(x, x.conj().mT)
    return a * x + multiply(b * gram + c * multiply(gram, gram), x)


def _on_gram(x, coeffs, multiply):
    """X_k = Q_k X_0 with Q_k a polynomial in G_0 = X_0 X_0', so that only the small matrices are iterated.

    With P_k = a + b G_k + c G_k^2: Q_(k+1) = P_k Q_k and G_(k+1) = P_k G_k P_k.
    """

    def polynomial(gram, abc):
        a, b, c = abc
        return a * jnp.eye(len(gram), dtype=gram.dtype) + b * gram + c * multiply(gram, gram)

    def step(carry, abc):
        q, p, gram = carry
        gram = multiply(multiply(p, gram), p)
        p = polynomial(gram, abc)
        return (multiply(p, q), p, gram), None

    for start in range(0, len(coeffs), GRAM_STEPS):
        part = coeffs[start : start + GRAM_STEPS]
        gram = multiply(x, x.conj().mT)
        p = polynomial(gram, part[0])
        (q, _, _), _ = jax.lax.scan(step, (p, p, gram), part[1:])
        x = multiply(q, x)
    return x


QDWH_BOUND = float(jnp.finfo(jnp.float32).eps)  # assumed smallest singular value of the scaled matrix


def qdwh(matrix: jax.Array, steps: int = 6) -> jax.Array:
    """The polar factor by the QR-based dynamically weighted Halley iteration, then one Newton-Schulz step.

    Nakatsukasa, Bai, Gygi, "Optimizing Halley's Iteration for Computing the Matrix Polar Decomposition" (2010). Six
    steps converge in float32; fewer leave small singular values small.

    Args:
      matrix: (rows, columns).
      steps: number of steps.

    Returns:
      (rows, columns), in at least float32; zeros map to zeros.

    >>> print(qdwh(jnp.array([[3.0, 0.0], [0.0, 0.5]])).round(3))
    [[1. 0.]
     [0. 1.]]
    """
    x = widen(matrix)
    if not x.size:
        return x
    if x.shape[0] < x.shape[1]:
        return qdwh(x.conj().mT, steps).conj().mT
    sizes = jnp.abs(x)
    bound = jnp.sqrt(jnp.max(jnp.sum(sizes, 0))) * jnp.sqrt(jnp.max(jnp.sum(sizes, 1)))
    x = x / jnp.where(bound > 0, bound, 1.0)
    low, eye = QDWH_BOUND, jnp.eye(x.shape[1], dtype=x.dtype)
    for _ in range(steps):
        d = (4 * (1 / low**2 - 1) / low**2) ** (1 / 3)
        root = math.sqrt(1 + d)
        a = root + math.sqrt(max(0.0, 2 - d + 2 * (2 - low**2) / (low**2 * root)))
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        q = linalg.orthonormal(jnp.concatenate((math.sqrt(c) * x, eye)))
        top, bottom = q[: len(x)], q[len(x) :]
        x = b / c * x + (a - b / c) / math.sqrt(c) * linalg.multiply(top, bottom.conj().mT)
        low = min(1.0, low * (a + b * low**2) / (1 + c * low**2))
    return 1.5 * x - 0.5 * linalg.multiply(x, linalg.multiply(x.conj().mT, x))


POLARS = ("newton_schulz", "qdwh")


def orthogonalize(
    updates: Tree,
    layout: Tree,
    coeffs: jax.Array,
    steps: int | jax.Array = 5,
    *,
    polar: str = "newton_schulz",
    **how: Any,
) -> Tree:
    """Applies :func:`newton_schulz` or :func:`qdwh` to every matrix of a tree, in one batch per shape.

    Args:
      updates: tree of arrays.
      layout: a :class:`~jaxopt_mini.ParamLayout` for every leaf; stacked matrices are orthogonalized separately.
      coeffs: see :func:`newton_schulz`.
      steps: see :func:`newton_schulz`.
      polar: a name in ``POLARS``.
      **how: further keywords of :func:`newton_schulz`.

    Returns:
      Tree with the shapes of ``updates``, in at least float32.
    """
    matrices = as_matrices(updates, layout)
    if polar == "qdwh":
        check_static(ns_steps=steps)
        return as_leaves(map_matrices(lambda m: qdwh(m, int(steps)), layout, matrices), layout, updates)
    # The polar factor of the transpose is the transposed polar factor: made wide, more matrices share a shape.
    wide = jax.tree.map(lambda m: m.mT if m.shape[-2] > m.shape[-1] else m, matrices)
    wide = map_matrices(lambda m: newton_schulz(m, coeffs, steps, **how), layout, wide)
    new = jax.tree.map(lambda o, m: o.mT if m.shape[-2] > m.shape[-1] else o, wide, matrices)
    return as_leaves(new, layout, updates)
