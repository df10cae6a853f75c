"""The loss landscape at a checkpoint: along lines, over planes, under parameter noise, and over the run's trajectory.

Random directions are filter-normalized (Li et al. 2018, arXiv 1712.09913): the part of a direction that belongs to one
output unit has the norm of that unit's weights, so that the landscape doesn't depend on rescalings that leave the
network's function unchanged. The units of an embedding are its rows. Biases and normalization scales stay unchanged,
so that such a direction is shorter than the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import CheckpointView, Params
from minigpt_flax.diagnose.result import StudyResult
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.runs.style import COLORS, DASHES, FONT, INK, label_ends, look, style_axes
from minigpt_flax.train.restore import open_checkpoints

POINTS = 25  # points on a line
SIDE = 15  # points per side of a plane
SPAN = {"random": 1.0, "gradient": 0.03, "update": 0.03, "hessian": 0.03}  # lengths of the direction, to either side
LOOKS = (0, 4, 8, 3)  # line styles of the directions, of four colors
SAMPLES = 32  # draws of the parameter noise
MIN_CHECKPOINTS = 3  # checkpoints needed for a trajectory


def study(view: CheckpointView, parameter: str | None = None, noise: float = 0.01) -> StudyResult:
    """Scans the loss along lines and over a plane, under noise on one parameter, and over the run's trajectory.

    Args:
      view: the checkpoint.
      parameter: name of the parameter to add noise to; None selects the first hidden matrix.
      noise: standard deviation of that noise.

    Raises:
      UserError: no parameter has that name.
    """
    params, loss = view.params, jax.jit(view.mean_loss)
    done, total = iter(range(1, len(DIRECTIONS) + 4)), len(DIRECTIONS) + 3
    tick = lambda: view.report("landscape", next(done), total)
    perturbed = perturb(loss, params, parameter or first_matrix(view), noise, SAMPLES, jax.random.key(2))
    tick()
    directions = {name: direction_of(view) for name, direction_of in DIRECTIONS.items()}
    lines = {}
    for name, direction in directions.items():
        if length := float(tree.norm(direction) / tree.norm(params)):
            lines[name] = scan_line(loss, params, direction, SPAN[name], POINTS) | {"length": length}
        tick()
    axes, span = (directions["random"], _random(view, seed=1)), SPAN["random"]
    plane = scan_plane(loss, params, axes, (span, span), SIDE)
    tick()
    path = trajectory(view, loss)
    tick()
    numbers = {"lines": lines, "plane": plane, "perturbed": perturbed, "path": path}
    return StudyResult(_sentences(numbers, view.loss_here), numbers, lambda figure: _draw(figure, numbers))


def _random(view: CheckpointView, seed: int = 0) -> Params:
    return filter_normalized(jax.random.key(seed), view.params, view.run.layout)


def _gradient(view: CheckpointView) -> Params:
    return scaled(view.mean_gradient, view.params)


def _update(view: CheckpointView) -> Params:
    """The optimizer's next update."""
    return scaled(view.step(view.state, view.batches[0])[1], view.params)


def _hessian(view: CheckpointView) -> Params:
    """The direction of largest curvature."""
    _, unravel = ravel_pytree(view.params)
    return scaled(unravel(view.spectrum.vectors[0]), view.params)


DIRECTIONS: dict[str, Callable[[CheckpointView], Params]] = {
    "random": _random,
    "gradient": _gradient,
    "update": _update,
    "hessian": _hessian,
}


def filter_normalized(key: Array, params: Params, layout: Any) -> Params:
    """A random direction in which each output unit has the norm of its weights; zero for vectors.

    The units of an embedding are its rows.

    Args:
      key: random key.
      params: tree of arrays.
      layout: tree of ``ParamLayout``.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(leaves)))

    def sample(key, leaf, entry):
        if not entry.inputs:
            return jnp.zeros_like(leaf)
        noise = jax.random.normal(key, leaf.shape, leaf.dtype)
        axes = entry.outputs if entry.role == "embedding" else entry.inputs
        norms = lambda x: jnp.sqrt(jnp.sum(tree.absolute_square(x), axis=axes, keepdims=True))
        return (noise * (norms(leaf) / norms(noise))).astype(leaf.dtype)

    return jax.tree.map(sample, keys, params, layout)


def scaled(direction: Params, params: Params) -> Params:
    """A direction scaled to the norm of the parameters; zero stays zero."""
    length = tree.norm(direction)
    factor = tree.norm(params) / jnp.where(length > 0, length, jnp.inf)
    return jax.tree.map(lambda leaf: leaf * factor, direction)


def displaced(params: Params, *steps: tuple[Params, Float[Array, ""] | float]) -> Params:
    """``params`` plus multiples of directions.

    Args:
      params: tree of arrays.
      steps: pairs of a direction and its factor.
    """
    for direction, distance in steps:
        params = jax.tree.map(lambda p, d, a=distance: p + a * d, params, direction)
    return params


def scan_line(loss: Callable, params: Params, direction: Params, span: float, points: int) -> dict[str, list[float]]:
    """Losses at evenly spaced points from ``-span`` to ``span`` along a direction.

    Args:
      loss: params -> loss.
      params: tree of arrays, the center.
      direction: tree of arrays.
      span: largest distance, in lengths of the direction.
      points: number of points, odd, so that the middle one is ``params``.

    Returns:
      ``distance``, in lengths of the direction, and ``loss``.
    """
    distances = np.linspace(-span, span, points, dtype=np.float32)
    at = jax.jit(lambda a: loss(displaced(params, (direction, a))))
    return {"distance": distances.tolist(), "loss": [float(at(a)) for a in distances]}


def scan_plane(
    loss: Callable, params: Params, directions: tuple[Params, Params], spans: tuple[float, float], side: int
) -> dict[str, Any]:
    """Losses over a plane.

    Returns:
      ``x`` and ``y``, distances along the two directions, and ``loss``, one row per ``y``.
    """
    x, y = (np.linspace(-span, span, side, dtype=np.float32) for span in spans)
    return _plane(loss, params, directions, x, y)


def _plane(loss: Callable, params: Params, directions: tuple[Params, Params], x: Any, y: Any) -> dict[str, Any]:
    at = jax.jit(lambda a, b: loss(displaced(params, (directions[0], a), (directions[1], b))))
    return {"x": x.tolist(), "y": y.tolist(), "loss": [[float(at(a, b)) for a in x] for b in y]}


def first_matrix(view: CheckpointView) -> str:
    """Name of the first hidden matrix."""
    entries = jax.tree.leaves_with_path(view.run.layout)
    return next(tree.path_name(path) for path, entry in entries if entry.role == "matrix")


def perturb(loss: Callable, params: Params, name: str, noise: float, samples: int, key: Array) -> dict[str, Any]:
    """The loss under Gaussian noise on one parameter; ``params`` stays unchanged.

    Args:
      loss: params -> loss.
      params: tree of arrays.
      name: name of the parameter, such as ``blocks/mlp/up/kernel``.
      noise: standard deviation of the noise.
      samples: number of draws.
      key: random key.

    Returns:
      ``parameter``, ``noise``, ``unperturbed``, ``mean``, ``spread`` (standard deviation), ``min``, ``max``.

    Raises:
      UserError: no parameter has that name.
    """
    leaves = {tree.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    if name not in leaves:
        names = ", ".join(leaves)
        raise UserError(f"no parameter is called {name!r}{nearest(name, leaves)}; there are: {names}")

    def add_noise(key):
        def change(path, leaf):
            if tree.path_name(path) != name:
                return leaf
            return leaf + noise * jax.random.normal(key, leaf.shape, leaf.dtype)

        return jax.tree.map_with_path(change, params)

    at = jax.jit(lambda key: loss(add_noise(key)))
    losses = np.array([float(at(k)) for k in jax.random.split(key, samples)])
    return {
        "parameter": name,
        "noise": noise,
        "unperturbed": float(loss(params)),
        "mean": float(losses.mean()),
        "spread": float(losses.std(ddof=1)),
        "min": float(losses.min()),
        "max": float(losses.max()),
    }


def trajectory(view: CheckpointView, loss: Callable) -> dict[str, Any] | None:
    """The run's checkpoints in the plane of their two principal components, and the loss over that plane.

    The components are those of the checkpoints' offsets from the last one.

    Returns:
      ``steps``, ``x`` and ``y`` of each checkpoint, ``explained`` (share of the offsets' squared norms that lies in the
      plane) and ``plane``; None for fewer than ``MIN_CHECKPOINTS`` checkpoints.
    """
    with open_checkpoints(view.folder) as checkpoints:
        steps = checkpoints.steps()
        if len(steps) < MIN_CHECKPOINTS:
            return None
        points = [jax.tree.map(tree.widen, checkpoints.read_params(step, view.run.shapes)) for step in steps]
    origin = points[-1]
    offsets = [jax.tree.map(jnp.subtract, point, origin) for point in points]
    gram = np.array([[float(tree.inner(a, b)) for b in offsets] for a in offsets])
    values, vectors = np.linalg.eigh(gram)
    axes = [scaled(_combined(offsets, vectors[:, i]), {"unit": jnp.ones(1)}) for i in (-1, -2)]
    x, y = ([float(tree.inner(offset, axis)) for offset in offsets] for axis in axes)
    sides = [_side(coordinates) for coordinates in (x, y)]
    plane = _plane(loss, origin, (axes[0], axes[1]), *sides)
    explained = float(values[-2:].sum() / max(values.sum(), np.finfo(np.float64).tiny))
    return {"steps": steps, "x": x, "y": y, "explained": explained, "plane": plane}


def _combined(trees: list[Params], weights: np.ndarray) -> Params:
    """Linear combination of trees."""
    return jax.tree.map(lambda *leaves: sum(float(w) * x for w, x in zip(weights, leaves, strict=True)), *trees)


def _side(values: list[float]) -> np.ndarray:
    """float32[SIDE], evenly spaced over the range of ``values`` plus a margin."""
    low, high = min(values), max(values)
    margin = 0.2 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, SIDE, dtype=np.float32)


def _sentences(numbers: dict[str, Any], center: float) -> list[str]:
    sentences = [f"The loss at the checkpoint is {center:.4f} nats/token."]
    sentences += [
        _describe_line(name, numbers["lines"][name], center)
        if name in numbers["lines"]
        else f"The {name} direction is zero."
        for name in DIRECTIONS
    ]
    p, path = numbers["perturbed"], numbers["path"]
    sentences.append(
        f"Noise of standard deviation {p['noise']:g} on {p['parameter']} changes the loss by "
        f"{p['mean'] - p['unperturbed']:+.2g} on average, to {p['mean']:.4f} (standard deviation {p['spread']:.2g}, "
        f"{p['min']:.4f} to {p['max']:.4f})."
    )
    sentences.append(
        f"A trajectory needs {MIN_CHECKPOINTS} checkpoints: train with a larger --keep."
        if path is None
        else f"The plane drawn with the {len(path['steps'])} checkpoints explains {path['explained']:.0%} of their "
        "variation."
    )
    return sentences


def _describe_line(name: str, line: dict[str, Any], center: float) -> str:
    """Describes the loss on a line; distances are shares of the parameter norm."""
    losses, distances = np.array(line["loss"]), np.array(line["distance"]) * line["length"]
    span = f"within {distances[-1]:.2g} times the parameter norm"
    if not np.isfinite(losses).all():
        return f"Along the {name} direction it becomes non-finite {span}."
    lowest = int(np.argmin(losses))
    drop = center - losses[lowest]
    minimum = f"; the minimum is {drop:.2g} lower, at {distances[lowest]:+.3g}" if drop > 1e-4 else ""
    return f"Along the {name} direction it rises by {max(losses) - center:.3g} {span}{minimum}."


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    path = numbers["path"]
    panels = figure.subplot_mosaic([["lines", "plane"]] if path is None else [["lines", "lines"], ["plane", "path"]])
    lines = panels["lines"]
    for i, (name, line) in enumerate(numbers["lines"].items()):
        fraction = np.array(line["distance"]) / max(line["distance"])
        label = f"{name} \u00b1{SPAN[name] * line['length']:.2g}"
        lines.plot(fraction, line["loss"], **look(LOOKS[i], marker="", linestyle=DASHES[i]), label=label)
    lines.set_title("lines; the gradient points to the right")
    lines.set_xlabel("distance / span")
    style_axes(lines, "loss (nats/token)")
    label_ends(lines)
    _contours(panels["plane"], numbers["plane"], "random plane")
    if path is not None:
        _contours(panels["path"], path["plane"], "plane of the trajectory")
        panels["path"].plot(path["x"], path["y"], "-o", color=INK, markersize=4, linewidth=1.2)


def _contours(axes: Axes, plane: dict[str, Any], title: str) -> None:
    heights = np.array(plane["loss"])
    finite = np.where(np.isfinite(heights), heights, np.max(heights[np.isfinite(heights)], initial=0.0))
    contours = axes.contour(plane["x"], plane["y"], finite, levels=8, colors=COLORS[0], linewidths=1)
    _label(axes, contours)
    axes.set_title(title)
    style_axes(axes, "", ticks=4)
    axes.grid(False)


def _label(axes: Axes, contours: ContourSet) -> None:
    """Labels contours with their levels, except where the label would reach beyond the axes."""
    tried = axes.clabel(contours, fontsize=FONT - 2, inline=False)
    places = np.reshape([text.get_position() for text in tried], (-1, 2))
    inner = axes.transAxes.inverted().transform(axes.transData.transform(places))
    for text in tried:
        text.remove()
    axes.clabel(contours, fontsize=FONT - 2, colors=INK, manual=places[np.all(np.abs(inner - 0.5) < 0.42, axis=1)])
