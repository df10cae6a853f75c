"""The curvature of the loss at a checkpoint: the Hessian's spectrum, and the distance to the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from minigpt_flax.diagnose.checkpoint_view import LANCZOS_STEPS, CheckpointView
from minigpt_flax.diagnose.edge_of_stability import find_bound
from minigpt_flax.diagnose.lanczos import Spectrum, density, flat, lanczos
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.runs.style import COLORS, DASHES, style_axes

GRID = 400  # points of the density curve


def study(view: CheckpointView) -> StudyResult:
    """Estimates the Hessian's extreme eigenvalues, trace and density, and compares them with the stability bound."""
    spectrum = view.spectrum
    numbers, sentences = _numbers(view, spectrum), _describe(spectrum, view.size)
    bound, keywords = find_bound(view.run.config.opt)
    if bound is None:
        sentences.append(f"No stability bound is known for {view.run.config.opt}.")
    else:
        scaled = bound.scale is not None
        top = preconditioned_curvature(view, bound.scale, keywords) if bound.scale else spectrum.largest
        limit = bound.factor(keywords) / view.lr if view.lr else math.inf
        numbers |= {"felt_curvature": top, "stability_bound": limit}
        sentences.append(_compare_with_bound(top, limit, scaled, view.lr))
    return StudyResult(sentences, numbers, lambda figure: _draw(figure, spectrum))


def preconditioned_curvature(
    view: CheckpointView, scale: Callable[[Any, Any], Any], keywords: Mapping[str, Any]
) -> float:
    """Largest eigenvalue of the preconditioned Hessian ``D^-1/2 H D^-1/2``, with the optimizer's preconditioner D."""
    root = 1 / jnp.sqrt(ravel_pytree(scale(view.state.opt_state, keywords))[0])
    product = flat(lambda vector: view.hessian_product(view.params, vector), view.params)
    done = iter(range(1, LANCZOS_STEPS + 1))
    tick = lambda: view.report("rescaled", next(done), LANCZOS_STEPS)
    start = jax.random.rademacher(jax.random.key(1), (view.size,), jnp.float32)
    return float(lanczos(lambda v: root * product(root * v), LANCZOS_STEPS, tick)(start).values[-1])


def _numbers(view: CheckpointView, spectrum: Spectrum) -> dict[str, Any]:
    return {
        "largest_eigenvalue": spectrum.largest,
        "largest_eigenvalue_error": spectrum.errors[0],
        "smallest_eigenvalue": spectrum.smallest,
        "smallest_eigenvalue_error": spectrum.errors[1],
        "trace": spectrum.trace,
        "trace_sem": spectrum.trace_sem,
        "mean_eigenvalue": spectrum.trace / view.size,
        "share_negative": float(spectrum.weights[spectrum.values < 0].sum()),
        "lr": view.lr,
        "ritz_values": spectrum.values.tolist(),
        "ritz_weights": spectrum.weights.tolist(),
    }


def _describe(spectrum: Spectrum, size: int) -> list[str]:
    ratio = abs(spectrum.smallest) / spectrum.largest if spectrum.largest > 0 else math.inf
    kind = (
        "The curvature is negative in some directions, so this is a saddle point, not a minimum"
        if spectrum.smallest < -max(spectrum.errors[1], 1e-3 * abs(spectrum.largest))
        else "No direction has measurably negative curvature, so this looks like a minimum"
    )
    return [
        f"The largest eigenvalue of the Hessian is {spectrum.largest:.4g} (+- {spectrum.errors[0]:.2g}); "
        f"its trace over {size:,} parameters is {spectrum.trace:.4g} +- {spectrum.trace_sem:.2g}.",
        f"{kind}: the smallest eigenvalue is {spectrum.smallest:.3g} (|smallest / largest| = {ratio:.2g}).",
    ]


def _compare_with_bound(top: float, limit: float, scaled: bool, lr: float) -> str:
    curvature = "the largest preconditioned curvature" if scaled else "the largest curvature"
    share = top / limit
    verdict = (
        "beyond the edge of stability; expect oscillation or a loss spike"
        if share > 1.1
        else "at the edge of stability"
        if share > 0.8
        else "in the stable region; a higher learning rate would still be stable"
    )
    return (
        f"At learning rate {lr:.3g}, {curvature} ({top:.4g}) is {share:.2f} of the stability bound ({limit:.4g}): "
        f"{verdict}."
    )


def _draw(figure: Figure, spectrum: Spectrum) -> None:
    axes = figure.subplots()
    span = spectrum.values.max() - spectrum.values.min()
    grid = np.linspace(spectrum.values.min() - 0.05 * span, spectrum.values.max() + 0.05 * span, GRID)
    curve = density(spectrum.values, spectrum.weights, grid, 0.01 * span)
    axes.plot(grid, np.maximum(curve, 1e-12), color=COLORS[0])
    axes.axvline(spectrum.largest, color=COLORS[4], linestyle=DASHES[1], label=f"largest, {spectrum.largest:.3g}")
    axes.axvline(spectrum.smallest, color=COLORS[8], linestyle=DASHES[2], label=f"smallest, {spectrum.smallest:.3g}")
    axes.set_yscale("log")
    axes.set_ylim(max(curve.max() * 1e-7, 1e-10), curve.max() * 2)
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.legend()
    style_axes(axes, "spectral density")
