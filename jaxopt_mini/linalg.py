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


def one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``function`` vmap to a loop on the CPU and to one batched call elsewhere.

    XLA's batched LAPACK calls split their batch over the thread pool that they run on, and wait. Several at once, one
    per matrix shape, deadlock (JAX 0.10, two cores).
    """
    looped = sequential_vmap(function)

    @functools.wraps(function)
    def mapped(*args: Any) -> Any:
        return jax.lax.platform_dependent(*args, cpu=looped, default=function)

    return mapped


@one_by_one
def eigh(symmetric: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues in ascending order and eigenvectors in columns.

    >>> values, vectors = eigh(jnp.diag(jnp.array([4.0, 1.0])))
    >>> print(values)
    [1. 4.]
    """
    values, vectors = jnp.linalg.eigh(symmetric)
    return values, vectors


@one_by_one
def orthonormal(matrix: jax.Array) -> jax.Array:
    """Orthonormal columns that span those of ``matrix``, in order: the Q of its QR decomposition."""
    return jnp.linalg.qr(matrix)[0]


@one_by_one
def singular_vectors(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """U and V' of the thin singular value decomposition, largest value first."""
    u, _, vh = jnp.linalg.svd(matrix, full_matrices=False)
    return u, vh


@one_by_one
def solve_transposed(triangular: jax.Array, right: jax.Array) -> jax.Array:
    """R'^-1 X for an upper triangular R."""
    return jax.scipy.linalg.solve_triangular(triangular, right, trans=1)
