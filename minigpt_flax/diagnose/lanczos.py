"""Matrix-free spectra of symmetric matrices: the Lanczos method and stochastic Lanczos quadrature."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from minigpt_flax.diagnose.interval import half_width
from minigpt_flax.errors import UserError

ROUNDING = float(np.finfo(np.float32).eps)  # relative error of a product in float32


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
    """The Lanczos method with full reorthogonalization, compiled once for all starts.

    It ends early where the products add no direction to the Krylov space, whose Ritz values are then eigenvalues.

    Args:
      product: v -> A v, traceable.
      depth: number of Lanczos steps, each with one product.
      tick: called after every product.

    Returns:
      A function of the start vector, which must not be zero.

    Raises:
      UserError: by that function, a product is not finite.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(basis, step):
        """The next basis vector; alpha and beta in units of ``scale``, since squares of 1e-30 underflow."""
        image = product(basis[step])
        scale = jnp.max(jnp.abs(image))
        rest = image / jnp.where(scale > 0, scale, 1)
        alpha = jnp.dot(basis[step], rest, precision="highest")
        for _ in range(2):  # once leaves rounding errors along the basis
            rest = rest - jnp.dot(jnp.dot(basis, rest, precision="highest"), basis, precision="highest")
        beta = jnp.linalg.norm(rest)
        rest = rest / jnp.where(beta > 0, beta, 1)
        return basis.at[step + 1].set(rest), jnp.stack([alpha, beta]), scale

    def run(start):
        steps = min(depth, start.size)
        basis = jnp.zeros((steps + 1, start.size)).at[0].set(start / jnp.linalg.norm(start))
        alphas, betas = [], []
        for step in range(steps):
            basis, entries, scale = advance(basis, step)
            alpha, beta = (np.asarray(entries, np.float64) * float(scale)).tolist()
            tick()
            if not math.isfinite(alpha + beta):
                raise UserError("the curvature here is not finite: choose an earlier checkpoint with --step")
            alphas.append(alpha)
            betas.append(beta)
            if beta <= ROUNDING * max(map(abs, alphas + betas)):
                break
        return _ritz(np.array(alphas), np.array(betas), basis)

    return run


def _ritz(alphas: np.ndarray, betas: np.ndarray, basis: Float[Array, "_ n"]) -> Ritz:
    """Ritz pairs of a tridiagonal matrix with diagonal ``alphas``; the last of ``betas`` is the residual's norm."""
    beside = np.diag(betas[:-1], 1)
    values, vectors = np.linalg.eigh(np.diag(alphas) + beside + beside.T)
    errors = np.abs(vectors[-1]) * betas[-1] + ROUNDING * np.abs(values).max()
    return Ritz(values, vectors[0] ** 2, errors, jnp.asarray(vectors.T, basis.dtype) @ basis[: len(values)])


class Spectrum(NamedTuple):
    """A spectrum estimated by several Lanczos runs from Rademacher vectors.

    Attributes:
      largest: estimate of the largest eigenvalue.
      smallest: estimate of the smallest eigenvalue.
      errors: residuals of ``largest`` and ``smallest``: an eigenvalue is at most that far away.
      trace: Hutchinson estimate of the trace.
      trace_sem: standard error of ``trace``.
      trace_error: half-width of its 95 % confidence interval, from Student's t.
      values: Ritz values of all runs.
      weights: quadrature weights of ``values``, with sum 1.
      vectors: Ritz vectors of the two largest Ritz values (of the only one, if there is one), from the run that found
        ``largest``.
    """

    largest: float
    smallest: float
    errors: tuple[float, float]
    trace: float
    trace_sem: float
    trace_error: float
    values: np.ndarray
    weights: np.ndarray
    vectors: Float[Array, "_ n"]


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
    sem = float(traces.std(ddof=1) / np.sqrt(probes))
    return Spectrum(
        largest=float(top.values[-1]),
        smallest=float(bottom.values[0]),
        errors=(float(top.errors[-1]), float(bottom.errors[0])),
        trace=float(traces.mean()),
        trace_sem=sem,
        trace_error=half_width(sem, probes),
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
