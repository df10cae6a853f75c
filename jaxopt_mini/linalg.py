"""Products and decompositions of a single matrix, to be mapped over stacks of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap


def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matrix product in full float32 precision, where an accelerator's default would be lower."""
    return jnp.matmul(left, right, precision="highest")


def one_by_one(derivative: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function of matrices vmap to a loop on the CPU and to one batched call elsewhere.

    XLA's batched LAPACK calls split their batch over the thread pool that they run on, and wait. Several at once, one
    per matrix shape, deadlock (JAX 0.10, two cores).

    Args:
      derivative: (arguments, result, tangents) -> tangent of the result, in matrix products. JAX can't differentiate
        the loop.

    Returns:
      A decorator.
    """

    def decorate(function):
        looped = sequential_vmap(function)

        @jax.custom_jvp
        @functools.wraps(function)
        def mapped(*args):
            return jax.lax.platform_dependent(*args, cpu=looped, default=function)

        @mapped.defjvp
        def jvp(args, tangents):
            result = mapped(*args)
            return result, derivative(args, result, tangents)

        return mapped

    return decorate


def _reciprocal(array: jax.Array) -> jax.Array:
    """1 / x, and 0 for 0."""
    return 1 / jnp.where(array == 0, jnp.inf, array)


def _eigh_tangent(args, result, tangents):
    (values, vectors), (da,) = result, tangents
    inner = multiply(multiply(vectors.conj().mT, (da + da.conj().mT) / 2), vectors)
    gaps = values[None, :] - values[:, None]
    return jnp.diagonal(inner).real, multiply(vectors, _reciprocal(gaps) * inner)


@one_by_one(_eigh_tangent)
def eigh(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues in ascending order and eigenvectors in columns.

    Where eigenvalues are equal, the derivative leaves out the rotation of their eigenvectors into each other.

    >>> values, vectors = eigh(jnp.diag(jnp.array([4.0, 1.0])))
    >>> print(values)
    [1. 4.]
    """
    values, vectors = jnp.linalg.eigh(symmetric)
    return values, vectors


def _solve_transposed_tangent(args, result, tangents):
    (triangular, _), (dr, dright) = args, tangents
    inverse = solve_transposed(triangular, jnp.eye(len(triangular), dtype=triangular.dtype))
    return multiply(inverse, dright - multiply(jnp.triu(dr).mT, result))


@one_by_one(_solve_transposed_tangent)
def solve_transposed(triangular: jax.Array, right: jax.Array) -> jax.Array:
    """R'^-1 X for an upper triangular R."""
    return jax.scipy.linalg.solve_triangular(triangular, right, trans=1)


def _orthonormal_tangent(args, q, tangents):
    (matrix,), (da,) = args, tangents
    r = multiply(q.conj().mT, matrix)
    da = multiply(da, solve_transposed(r, jnp.eye(len(r), dtype=r.dtype)).mT)
    inner = multiply(q.conj().mT, da)
    lower, diagonal = jnp.tril(inner, -1), jnp.diagonal(inner)
    turn = lower - lower.conj().mT + jnp.diag(diagonal - diagonal.real)
    return multiply(q, turn - inner) + da


@one_by_one(_orthonormal_tangent)
def orthonormal(matrix: jax.Array) -> jax.Array:
    """Orthonormal columns that span those of ``matrix``, in order: the Q of its QR decomposition."""
    return jnp.linalg.qr(matrix)[0]


def _svd_tangent(args, result, tangents):
    (u, s, vh), (da,) = result, tangents
    uh, v = u.conj().mT, vh.conj().mT
    ds = multiply(multiply(uh, da), v)
    weights = _reciprocal((s[None, :] + s[:, None]) * (s[None, :] - s[:, None]))
    left, right = s[None, :] * ds, s[:, None] * ds
    phases = jnp.diag((jnp.diagonal(ds) - jnp.diagonal(ds).real) * _reciprocal(s))
    outside_u, outside_v = multiply(da, v), multiply(da.conj().mT, u)
    du = multiply(u, weights * (left + left.conj().mT) + phases)
    dv = multiply(v, weights * (right + right.conj().mT))
    if u.shape[0] > u.shape[1]:
        du += (outside_u - multiply(u, multiply(uh, outside_u))) * _reciprocal(s)[None, :]
    if v.shape[0] > v.shape[1]:
        dv += (outside_v - multiply(v, multiply(vh, outside_v))) * _reciprocal(s)[None, :]
    return du, jnp.diagonal(ds).real, dv.conj().mT


@one_by_one(_svd_tangent)
def _svd(matrix):
    u, s, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


def singular_vectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """U and V' of the thin singular value decomposition, largest value first."""
    u, _, vh = _svd(matrix)
    return u, vh
