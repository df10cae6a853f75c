"""Eigenvalues of a matrix that is known by its products with vectors alone: Lanczos, and what random starts add."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matfree import decomp


class Ritz(NamedTuple):
    """What one Lanczos run knows of a symmetric matrix of n rows.

    Attributes:
      values: Ritz values, ascending; those at either end approach eigenvalues first.
      weights: squared first components of the Ritz vectors: the values' shares of the spectrum as the start sees it.
      errors: bounds of the distance of each value to an eigenvalue.
      vectors: float32[depth, n], a Ritz vector a row.
    """

    values: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    vectors: Float[Array, "depth n"]


Product = Callable[[Float[Array, " n"]], Float[Array, " n"]]


def lanczos(product: Product, depth: int, tick: Callable[[], None]) -> Callable[[Float[Array, " n"]], Ritz]:
    """Lanczos with full reorthogonalisation (matfree's ``tridiag_sym``), compiled once for all starts.

    Args:
      product: v -> A v, traceable.
      depth: number of products.
      tick: called after every product.

    Returns:
      A function of the vector to begin from, which is not zero.
    """

    def counted(vector):
        out = product(vector)
        jax.debug.callback(lambda _: tick(), out[0])
        return out

    @jax.jit
    def decompose(start):
        return decomp.tridiag_sym(min(depth, start.size))(counted, start)

    def run(start):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as matfree is written
            basis, matrix, residual, _ = decompose(start)
            jax.effects_barrier()
        values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
        rounding = np.finfo(np.float32).eps * np.abs(values).max()
        errors = np.abs(vectors[-1]) * float(jnp.linalg.norm(residual)) + rounding
        return Ritz(values, vectors[0] ** 2, errors, jnp.asarray(vectors.T, basis.dtype) @ basis)

    return run


class Spectrum(NamedTuple):
    """What several Lanczos runs from random signs know.

    Attributes:
      largest: estimate of the largest eigenvalue.
      smallest: of the smallest.
      errors: bounds of the errors of the two.
      trace: Hutchinson's estimate of the sum of all eigenvalues.
      trace_sem: its standard error.
      values: Ritz values of all runs.
      weights: their shares of the spectrum, summing to one.
      vectors: the Ritz vectors of the two largest values of the run that came closest.
    """

    largest: float
    smallest: float
    errors: tuple[float, float]
    trace: float
    trace_sem: float
    values: np.ndarray
    weights: np.ndarray
    vectors: Float[Array, "2 n"]


def spectrum(product: Product, size: int, key: Array, *, depth: int, probes: int, tick: Callable[[], None]) -> Spectrum:
    """Estimates ends, trace and density of the spectrum by stochastic Lanczos quadrature.

    Ghorbani, Krishnan, Xiao (2019, arXiv 1901.10159). A run from a vector z of random signs has z^T A z / n for its
    weighted mean, so the same runs give Hutchinson's trace.

    Args:
      product: v -> A v.
      size: n, number of rows.
      key: random key.
      depth: products in a run.
      probes: number of runs, at least 2.
      tick: called after every product.
    """
    starts = jax.random.rademacher(key, (probes, size), jnp.float32)
    decompose = lanczos(product, depth, tick)
    runs = [decompose(start) for start in starts]
    traces = np.array([size * float(run.weights @ run.values) for run in runs])
    top = max(runs, key=lambda run: run.values[-1])
    bottom = min(runs, key=lambda run: run.values[0])
    return Spectrum(
        largest=float(top.values[-1]),
        smallest=float(bottom.values[0]),
        errors=(float(top.errors[-1]), float(bottom.errors[0])),
        trace=float(traces.mean()),
        trace_sem=float(traces.std(ddof=1) / np.sqrt(probes)),
        values=np.concatenate([run.values for run in runs]),
        weights=np.concatenate([run.weights for run in runs]) / probes,
        vectors=top.vectors[-2:][::-1],
    )


def flat(function: Callable, like: object) -> Product:
    """A map of trees like ``like`` as a map of vectors."""
    _, unravel = ravel_pytree(like)
    return lambda vector: ravel_pytree(function(unravel(vector)))[0]


def density(values: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Share of eigenvalues per unit, each value spread as a Gaussian of this width."""
    bumps = np.exp(-(((grid[:, None] - values[None]) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    return bumps @ weights
