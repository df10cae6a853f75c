"""The curvature of the loss at a checkpoint: the Hessian's spectrum, and the distance to the edge of stability."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from matplotlib.figure import Figure

from jaxopt_mini import clip_by_norm, tree
from minigpt_flax.diagnose.checkpoint_view import LANCZOS_STEPS, CheckpointView, ParamsGroup
from minigpt_flax.diagnose.edge_of_stability import find_bound, optimizer_keywords
from minigpt_flax.diagnose.lanczos import Spectrum, density, flat, lanczos
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.runs.style import COLORS, DASHES, style_axes

GRID = 400  # points of the density curve


EDGE = (0.8, 1.1)  # shares of the stability bound that count as at the edge
SMALL_GRADIENT = 1e-2  # |gradient| |parameters| / loss of a point that counts as stationary


def study(view: CheckpointView) -> StudyResult:
    """Estimates the Hessian's extreme eigenvalues, trace and density, and compares them with the stability bound."""
    spectrum = view.spectrum
    gradient, size = (float(tree.norm(values)) for values in (view.mean_gradient, view.params))
    stationary = gradient * size <= SMALL_GRADIENT * view.loss_here
    margins = [margin_of(view, group) for group in view.groups]
    numbers = _numbers(view, spectrum) | {"gradient_norm": gradient, "clip_factor": view.clip_factor}
    if len(margins) == 1:
        numbers |= {"felt_curvature": margins[0].curvature, "stability_bound": margins[0].bound}
    numbers["groups"] = [margin._asdict() for margin in margins]
    sentences = _describe(spectrum, view.size, gradient, stationary)
    sentences += [_compare_with_bound(margin, view.clip_factor) for margin in margins]
    if any(margin.bound is not None for margin in margins):
        sentences.append(_left_out(view))
    return StudyResult(sentences, numbers, lambda figure: _draw(figure, spectrum))


class Margin(NamedTuple):
    """A group of parameters and its distance to the edge of stability.

    Attributes:
      group: where the optimizer applies; empty in a run without groups.
      optimizer: its spec.
      lr: its learning rate.
      curvature: estimate from below of the largest curvature that its steps meet: preconditioned, and scaled by the
        clip; None if there is no bound.
      residual: of ``curvature``; an eigenvalue is at most that far away.
      bound: the largest stable curvature; None if there is none.
      reason: why there is none; empty otherwise.
    """

    group: str
    optimizer: str
    lr: float
    curvature: float | None = None
    residual: float | None = None
    bound: float | None = None
    reason: str = ""


def margin_of(view: CheckpointView, group: ParamsGroup) -> Margin:
    """Measures the largest curvature that the steps of a group meet, beside its bound."""
    margin = functools.partial(Margin, group.where, str(group.optimizer), group.lr)
    bound, keywords = find_bound(group.optimizer)
    if bound is None:
        return margin(reason=f"no stability bound is known for {group.optimizer.name}")
    if not group.lr > 0:
        return margin(
            reason=f"at learning rate {group.lr:g} no step moves the parameters, so there is no stability bound"
        )
    scale = bound.scale(group.state, keywords) if bound.scale else dict.fromkeys(group.layers, jnp.ones(()))
    if not group.layers.keys() <= scale.keys():
        return margin(reason=f"no stability bound is known before the first step of {group.optimizer.name}")
    if bound.scale is None and not group.where:
        curvature, residual = view.spectrum.largest, view.spectrum.errors[0]
    else:
        curvature, residual = preconditioned_curvature(view, {name: scale[name] for name in group.layers}, group.layers)
    factor = view.clip_factor
    return margin(curvature * factor, residual * factor, bound.factor(keywords) / group.lr)


def preconditioned_curvature(
    view: CheckpointView, scale: Mapping[str, Array], layers: Mapping[str, tuple[int, ...] | None]
) -> tuple[float, float]:
    """Largest eigenvalue of the preconditioned Hessian ``D^-1/2 H D^-1/2``, and its residual.

    Args:
      view: the checkpoint.
      scale: name of a parameter -> the entries of D, an array or a scalar; the parameters without an entry stay fixed.
      layers: name of a parameter -> the layers that ``scale`` has entries of; None for all. The others stay fixed.
    """

    def inverse_root(path, leaf):
        name = tree.path_name(path)
        if name not in scale:
            return jnp.zeros_like(leaf)
        rows = slice(None) if layers[name] is None else np.array(layers[name])
        return jnp.zeros_like(leaf).at[rows].set(jax.lax.rsqrt(scale[name]))

    root = ravel_pytree(jax.tree.map_with_path(inverse_root, view.params))[0]
    product = flat(lambda vector: view.hessian_product(view.params, vector), view.params)
    done = iter(range(1, LANCZOS_STEPS + 1))
    tick = lambda: view.report("rescaled", next(done), LANCZOS_STEPS)
    signs = jax.random.rademacher(jax.random.key(1), (view.size,), jnp.float32)
    start = jnp.where(root > 0, signs, 0)
    ritz = lanczos(lambda v: root * product(root * v), LANCZOS_STEPS, tick)(start)
    return float(ritz.values[-1]), float(ritz.errors[-1])


def _numbers(view: CheckpointView, spectrum: Spectrum) -> dict[str, Any]:
    return {
        "largest_eigenvalue": spectrum.largest,
        "largest_eigenvalue_residual": spectrum.errors[0],
        "smallest_eigenvalue": spectrum.smallest,
        "smallest_eigenvalue_residual": spectrum.errors[1],
        "trace": spectrum.trace,
        "trace_sem": spectrum.trace_sem,
        "trace_interval": [spectrum.trace - spectrum.trace_error, spectrum.trace + spectrum.trace_error],
        "mean_eigenvalue": spectrum.trace / view.size,
        "lr": view.lr,
        "ritz_values": spectrum.values.tolist(),
        "ritz_weights": spectrum.weights.tolist(),
    }


def _describe(spectrum: Spectrum, size: int, gradient: float, stationary: bool) -> list[str]:
    negative = spectrum.smallest < -max(spectrum.errors[1], 1e-3 * abs(spectrum.largest))
    slope = f"The gradient, of norm {gradient:.2g}, is {'small' if stationary else 'not small'}"
    if negative and stationary:
        kind = f"{slope}, and the curvature is negative in some directions: this is close to a saddle point"
    elif negative:
        kind = f"The curvature is negative in some directions. {slope}: this is no stationary point"
    elif stationary:
        kind = f"{slope}, and no direction has measurably negative curvature: this looks like a minimum"
    else:
        kind = f"No direction has measurably negative curvature. {slope}: this is no stationary point"
    return [
        f"The largest eigenvalue of the Hessian is {spectrum.largest:.4g} (residual {spectrum.errors[0]:.2g}); its "
        f"trace over {size:,} parameters is {spectrum.trace:.4g} +- {spectrum.trace_error:.3g} (95 % interval).",
        f"{kind}. The smallest eigenvalue is {spectrum.smallest:.3g} (residual {spectrum.errors[1]:.2g}).",
    ]


def _compare_with_bound(margin: Margin, factor: float) -> str:
    text = _share_of_bound(margin, factor)
    return f"{margin.group}: {text}." if margin.group else f"{text[0].upper()}{text[1:]}."


def _share_of_bound(margin: Margin, factor: float) -> str:
    if margin.curvature is None or margin.residual is None or margin.bound is None:
        return margin.reason
    share, upper = margin.curvature / margin.bound, (margin.curvature + margin.residual) / margin.bound
    clipped = f" (scaled by the last clip, {factor:.2g})" if factor < 1 else ""
    name, _, _ = margin.optimizer.partition("(")
    return (
        f"at learning rate {margin.lr:.3g}, the largest curvature that {name} meets{clipped} is "
        f"{margin.curvature:.4g}, {share:.2f} of the stability bound ({margin.bound:.4g}): {verdict(share, upper)}"
    )


def verdict(low: float, high: float) -> str:
    """The verdict for a share of the bound between ``low`` and ``high``."""
    below, beyond = EDGE
    if low > beyond:
        return "beyond the edge of stability"
    if high < below:
        return "below the edge of stability"
    if low >= below and high <= beyond:
        return "at the edge of stability"
    return f"these products cannot tell on which side of the edge of stability (up to {high:.2f})"


def _left_out(view: CheckpointView) -> str:
    """Names what the steps of the run have and the bound leaves out."""
    config = view.run.config
    left_out = ["the noise of minibatches"]
    if any(optimizer_keywords(group.optimizer)[1].get("weight_decay") for group in view.groups):
        left_out.append("weight decay")
    if len(view.groups) > 1:
        left_out.append("the coupling of the groups")
    if config.clip.name not in ("none", clip_by_norm.__name__):
        left_out.append(f"the clip {config.clip}")
    left_out += [f"the wrapper {spec}" for spec in config.wrap]
    if config.dropout:
        left_out.append("dropout")
    if view.run.model.dtype != "float32":
        left_out.append("rounding to bfloat16")
    named = " and ".join([", ".join(left_out[:-1]), left_out[-1]] if left_out[1:] else left_out)
    return f"The bound holds for a quadratic loss, the full gradient and a fixed preconditioner. It leaves out {named}."


def _draw(figure: Figure, spectrum: Spectrum) -> None:
    axes = figure.subplots()
    span = spectrum.values.max() - spectrum.values.min() or abs(spectrum.largest) or 1.0  # 0 if all are equal
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
