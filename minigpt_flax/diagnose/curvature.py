"""The curvature of the loss at a checkpoint: how steep, a saddle or not, and how near the edge of stability."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

from minigpt_flax.diagnose.checkpoint_view import DEPTH, Subject
from minigpt_flax.diagnose.edge_of_stability import rule_of
from minigpt_flax.diagnose.lanczos import Spectrum, density, flat, lanczos
from minigpt_flax.diagnose.result import Finding
from minigpt_flax.runs.plots import COLOURS, DASHES, dress

GRID = 400  # points of the density's curve


def study(subject: Subject) -> Finding:
    """Measures the Hessian's ends, trace and density, and the bounds on the step size that follow."""
    found = subject.spectrum
    numbers, sentences = _numbers(subject, found), _shape(found, subject.size)
    rule, words = rule_of(subject.run.config.opt)
    if rule is None:
        sentences.append(f"No stability bound is known for {subject.run.config.opt}.")
    else:
        felt = found.largest if rule.scale is None else felt_curvature(subject, rule.scale, words)
        bound = rule.factor(words) / subject.lr if subject.lr else math.inf
        numbers |= {"felt_curvature": felt, "stability_bound": bound}
        sentences.append(_edge(felt, bound, rule.scale is not None, subject.lr))
    return Finding(sentences, numbers, lambda figure: _draw(figure, found))


def felt_curvature(subject: Subject, scale: Callable[[Any, Any], Any], words: Mapping[str, Any]) -> float:
    """Largest eigenvalue of ``D^-1/2 H D^-1/2``, D what the optimizer divides by."""
    root = 1 / jnp.sqrt(ravel_pytree(scale(subject.state.opt_state, words))[0])
    product = flat(lambda vector: subject.hessian_product(subject.params, vector), subject.params)
    done = iter(range(1, DEPTH + 1))
    tick = lambda: subject.report("rescaled", next(done), DEPTH)
    start = jax.random.rademacher(jax.random.key(1), (subject.size,), jnp.float32)
    return float(lanczos(lambda v: root * product(root * v), DEPTH, tick)(start).values[-1])


def _numbers(subject: Subject, found: Spectrum) -> dict[str, Any]:
    return {
        "largest_eigenvalue": found.largest,
        "largest_eigenvalue_error": found.errors[0],
        "smallest_eigenvalue": found.smallest,
        "smallest_eigenvalue_error": found.errors[1],
        "trace": found.trace,
        "trace_sem": found.trace_sem,
        "mean_eigenvalue": found.trace / subject.size,
        "share_negative": float(found.weights[found.values < 0].sum()),
        "lr": subject.lr,
        "ritz_values": found.values.tolist(),
        "ritz_weights": found.weights.tolist(),
    }


def _shape(found: Spectrum, size: int) -> list[str]:
    ratio = abs(found.smallest) / found.largest if found.largest > 0 else math.inf
    kind = (
        f"Some directions bend down (smallest eigenvalue {found.smallest:.3g}): this is a saddle, not a minimum"
        if found.smallest < -max(found.errors[1], 1e-3 * abs(found.largest))
        else "No direction bends down measurably: this looks like a minimum"
    )
    return [
        f"The steepest direction has curvature {found.largest:.4g} (+- {found.errors[0]:.2g}); "
        f"the sum over all {size:,} directions is {found.trace:.4g} +- {found.trace_sem:.2g}.",
        f"{kind}; the downward bend is {ratio:.2g} of the steepest upward one.",
    ]


def _edge(top: float, bound: float, scaled: bool, lr: float) -> str:
    felt = "the curvature that the rescaled steps feel" if scaled else "the steepest curvature"
    share = top / bound
    verdict = (
        "beyond the edge of stability: expect oscillation or the loss to catapult"
        if share > 1.1
        else "at the edge of stability"
        if share > 0.8
        else "within the stable region; a larger rate would still be stable"
    )
    return f"At learning rate {lr:.3g}, {felt} ({top:.4g}) is {share:.2f} of the bound ({bound:.4g}): {verdict}."


def _draw(figure: Figure, found: Spectrum) -> None:
    axes = figure.subplots()
    span = found.values.max() - found.values.min()
    grid = np.linspace(found.values.min() - 0.05 * span, found.values.max() + 0.05 * span, GRID)
    curve = density(found.values, found.weights, grid, 0.01 * span)
    axes.plot(grid, np.maximum(curve, 1e-12), color=COLOURS[0])
    axes.axvline(found.largest, color=COLOURS[1], linestyle=DASHES[1], label=f"largest, {found.largest:.3g}")
    axes.axvline(found.smallest, color=COLOURS[2], linestyle=DASHES[2], label=f"smallest, {found.smallest:.3g}")
    axes.set_yscale("log")
    axes.set_ylim(max(curve.max() * 1e-7, 1e-10), curve.max() * 2)
    axes.set_xlabel("eigenvalue of the Hessian")
    axes.legend(frameon=False)
    dress(axes, "density of eigenvalues")
