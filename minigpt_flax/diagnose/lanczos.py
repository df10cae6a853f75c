"""Matrix-free spectra of symmetric matrices: the Lanczos method and stochastic Lanczos quadrature."""

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
    """Ritz pairs of a symmetric n x n matrix from one Lanczos run.

    Attributes:
      values: Ritz values, ascending; the extreme ones converge to eigenvalues first.
      weights: quadrature weights, the squared first components of the tridiagonal matrix's eigenvectors.
      errors: bounds on the distance of each Ritz value to an eigenvalue.
      vectors: float32[depth, n], one Ritz vector per row.
    """

    values: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    vectors: Float[Array, "depth n"]


Product = Callable[[Float[Array, " n"]], Float[Array, " n"]]


def lanczos(product: Product, depth: int, tick: Callable[[], None]) -> Callable[[Float[Array, " n"]], Ritz]:
    """The Lanczos method with full reorthogonalization (matfree's ``tridiag_sym``), compiled once for all starts.

    Args:
      product: v -> A v, traceable.
      depth: number of Lanczos steps, each with one product.
      tick: called after every product.

    Returns:
      A function of the start vector, which must not be zero.
    """

    def counted(vector):
        out = product(vector)
        jax.debug.callback(lambda _: tick(), out[0])
        return out

    @jax.jit
    def decompose(start):
        return decomp.tridiag_sym(min(depth, start.size))(counted, start)

    def run(start):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # matfree relies on both
            basis, matrix, residual, _ = decompose(start)
            jax.effects_barrier()
        values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))
        rounding = np.finfo(np.float32).eps * np.abs(values).max()
        errors = np.abs(vectors[-1]) * float(jnp.linalg.norm(residual)) + rounding
        return Ritz(values, vectors[0] ** 2, errors, jnp.asarray(vectors.T, basis.dtype) @ basis)

    return run


class Spectrum(NamedTuple):
    """A spectrum estimated by several Lanczos runs from Rademacher vectors.

    Attributes:
      largest: estimate of the largest eigenvalue.
      smallest: estimate of the smallest eigenvalue.
      errors: error bounds of ``largest`` and ``smallest``.
      trace: Hutchinson estimate of the trace.
      trace_sem: standard error of ``trace``.
      values: Ritz values of all runs.
      weights: quadrature weights of ``values``, with sum 1.
      vectors: Ritz vectors of the two largest Ritz values, from the run that found ``largest``.
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
    """Estimates extreme eigenvalues, trace and density of the spectrum by stochastic Lanczos quadrature.

    Ghorbani, Krishnan, Xiao (2019, arXiv 1901.10159). The weighted mean of the Ritz values of a run from a Rademacher
    vector z is z^T A z / n, so the same runs yield Hutchinson's trace estimate.

    Args:
      product: v -> A v.
      size: n, number of rows.
      key: random key.
      depth: Lanczos steps per run.
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
    """A function of trees with the structure of ``like`` as a function of flat vectors."""
    _, unravel = ravel_pytree(like)
    return lambda vector: ravel_pytree(function(unravel(vector)))[0]


def density(values: np.ndarray, weights: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Spectral density on ``grid``: the weighted values, smoothed by a Gaussian of standard deviation ``width``."""
    bumps = np.exp(-(((grid[:, None] - values[None]) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    return bumps @ weights
