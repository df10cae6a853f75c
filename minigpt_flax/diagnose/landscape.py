"""The loss around a checkpoint: along lines, over planes, under noise on one parameter, and along the run's own path.

Random directions are filter-normalised (Li et al. 2018, arXiv 1712.09913): the part of a direction that belongs to one
output unit has the norm of that unit's weights, so that the picture doesn't depend on how a network that computes the
same is scaled. Biases and norms' scales stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import Params, Subject
from minigpt_flax.diagnose.result import Finding
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.runs.plots import COLOURS, DASHES, dress
from minigpt_flax.train.restore import open_checkpoints

POINTS = 25  # on a line
SIDE = 15  # points on the side of a plane
SPAN = {"random": 1.0, "gradient": 0.03, "update": 0.03, "hessian": 0.03}  # of the parameters' norm, to either side
SAMPLES = 32  # of the noise on one parameter
ENOUGH = 3  # checkpoints for a path


def study(subject: Subject, parameter: str | None = None, noise: float = 0.01) -> Finding:
    """Draws lines, a plane, noise on one parameter and the run's path.

    Args:
      subject: the checkpoint.
      parameter: name of the parameter that noise is added to; None takes the first matrix.
      noise: standard deviation of that noise.

    Raises:
      UserError: no parameter has that name.
    """
    params, loss = subject.params, jax.jit(subject.mean_loss)
    name = parameter or first_matrix(subject)
    perturbed = perturb(loss, params, name, noise, SAMPLES, jax.random.key(2))
    subject.report("landscape", 1, len(DIRECTIONS) + 3)
    directions = {name: draw(subject) for name, draw in DIRECTIONS.items()}
    lines = {}
    for i, (way, direction) in enumerate(directions.items(), start=2):
        lines[way] = line(loss, params, direction, SPAN[way], POINTS)
        subject.report("landscape", i, len(directions) + 3)
    plane = grid(loss, params, (directions["random"], _random(subject, seed=1)), (SPAN["random"], SPAN["random"]), SIDE)
    subject.report("landscape", len(directions) + 2, len(directions) + 3)
    path = trajectory(subject, loss)
    subject.report("landscape", len(directions) + 3, len(directions) + 3)
    numbers = {"lines": lines, "plane": plane, "perturbed": perturbed, "path": path}
    return Finding(_sentences(numbers, float(loss(params))), numbers, lambda figure: _draw(figure, numbers))


def _random(subject: Subject, seed: int = 0) -> Params:
    return filter_normalised(jax.random.key(seed), subject.params, subject.run.layout)


def _gradient(subject: Subject) -> Params:
    return scaled(jax.jit(subject.gradient)(subject.params, subject.batches), subject.params)


def _update(subject: Subject) -> Params:
    """The step that the optimizer would take next."""
    return scaled(subject.step(subject.state, subject.batches[0])[1], subject.params)


def _hessian(subject: Subject) -> Params:
    """The direction of the largest curvature."""
    _, unravel = ravel_pytree(subject.params)
    return scaled(unravel(subject.spectrum.vectors[0]), subject.params)


DIRECTIONS: dict[str, Callable[[Subject], Params]] = {
    "random": _random,
    "gradient": _gradient,
    "update": _update,
    "hessian": _hessian,
}


def filter_normalised(key: Array, params: Params, layout: Any) -> Params:
    """A random direction, each output unit's part as long as the unit's weights; zero for vectors.

    Args:
      key: random key.
      params: tree of arrays.
      layout: tree of ``ParamLayout``.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(leaves)))

    def one(key, leaf, entry):
        if not entry.inputs:
            return jnp.zeros_like(leaf)
        draw = jax.random.normal(key, leaf.shape, leaf.dtype)
        length = lambda x: jnp.sqrt(jnp.sum(tree.absolute_square(x), axis=entry.inputs, keepdims=True))
        return (draw * (length(leaf) / length(draw))).astype(leaf.dtype)

    return jax.tree.map(one, keys, params, layout)


def scaled(direction: Params, params: Params) -> Params:
    """A direction as long as the parameters."""
    factor = tree.norm(params) / jnp.maximum(tree.norm(direction), jnp.finfo(jnp.float32).tiny)
    return jax.tree.map(lambda leaf: leaf * factor, direction)


def along(params: Params, *steps: tuple[Params, Float[Array, ""] | float]) -> Params:
    """``params`` plus multiples of directions."""
    for direction, distance in steps:
        params = jax.tree.map(lambda p, d, a=distance: p + a * d, params, direction)
    return params


def line(loss: Callable, params: Params, direction: Params, span: float, points: int) -> dict[str, list[float]]:
    """Losses at ``points`` (odd) places from ``-span`` to ``span`` along a direction, the middle one unmoved.

    Returns:
      ``distance``, in lengths of the direction, and ``loss``.
    """
    distances = np.linspace(-span, span, points, dtype=np.float32)
    at = jax.jit(lambda a: loss(along(params, (direction, a))))
    return {"distance": distances.tolist(), "loss": [float(at(a)) for a in distances]}


def grid(
    loss: Callable, params: Params, directions: tuple[Params, Params], spans: tuple[float, float], side: int
) -> dict[str, Any]:
    """Losses over a plane: ``x``, ``y`` (distances along the two directions) and ``loss``, a row a y."""
    x, y = (np.linspace(-span, span, side, dtype=np.float32) for span in spans)
    return _plane(loss, params, directions, x, y)


def _plane(loss: Callable, params: Params, directions: tuple[Params, Params], x: Any, y: Any) -> dict[str, Any]:
    at = jax.jit(lambda a, b: loss(along(params, (directions[0], a), (directions[1], b))))
    return {"x": x.tolist(), "y": y.tolist(), "loss": [[float(at(a, b)) for a in x] for b in y]}


def first_matrix(subject: Subject) -> str:
    """Name of the first hidden matrix."""
    entries = jax.tree.leaves_with_path(subject.run.layout)
    return next(tree.path_name(path) for path, entry in entries if entry.role == "matrix")


def perturb(loss: Callable, params: Params, name: str, noise: float, samples: int, key: Array) -> dict[str, Any]:
    """The course's probe: the loss under Gaussian noise on one parameter. The parameters themselves stay.

    Args:
      loss: params -> loss.
      params: tree of arrays.
      name: of the parameter, as ``blocks/mlp/up/kernel``.
      noise: standard deviation.
      samples: number of draws.
      key: random key.

    Returns:
      ``parameter``, ``noise``, ``unperturbed``, ``mean``, ``spread`` (standard deviation), ``min``, ``max``.

    Raises:
      UserError: no parameter has that name.
    """
    leaves = {tree.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    if name not in leaves:
        there = ", ".join(leaves)
        raise UserError(f"no parameter is called {name!r}{nearest(name, leaves)}; there are: {there}")

    def moved(key):
        def one(path, leaf):
            if tree.path_name(path) != name:
                return leaf
            return leaf + noise * jax.random.normal(key, leaf.shape, leaf.dtype)

        return jax.tree.map_with_path(one, params)

    at = jax.jit(lambda key: loss(moved(key)))
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


def trajectory(subject: Subject, loss: Callable) -> dict[str, Any] | None:
    """The run's checkpoints on the plane of their two principal directions, with the loss over that plane.

    Returns:
      ``steps``, ``x``, ``y`` of each checkpoint, ``explained`` (share of the movement that the plane holds) and
      ``plane``; None where there are fewer than ``ENOUGH`` checkpoints.
    """
    with open_checkpoints(subject.folder) as checkpoints:
        like = jax.eval_shape(subject.run.init)
        steps = checkpoints.steps()
        if len(steps) < ENOUGH:
            return None
        places = [checkpoints.read(step, like).params for step in steps]
    origin = places[-1]
    moves = [jax.tree.map(jnp.subtract, place, origin) for place in places]
    gram = np.array([[float(tree.inner(a, b)) for b in moves] for a in moves])
    values, vectors = np.linalg.eigh(gram)
    axes = [scaled(_combined(moves, vectors[:, i]), {"unit": jnp.ones(1)}) for i in (-1, -2)]
    x, y = ([float(tree.inner(move, axis)) for move in moves] for axis in axes)
    sides = [_around(values) for values in (x, y)]
    plane = _plane(loss, origin, (axes[0], axes[1]), *sides)
    explained = float(values[-2:].sum() / max(values.sum(), np.finfo(np.float64).tiny))
    return {"steps": steps, "x": x, "y": y, "explained": explained, "plane": plane}


def _combined(trees: list[Params], weights: np.ndarray) -> Params:
    return jax.tree.map(lambda *leaves: sum(float(w) * x for w, x in zip(weights, leaves, strict=True)), *trees)


def _around(values: list[float]) -> np.ndarray:
    low, high = min(values), max(values)
    margin = 0.2 * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, SIDE, dtype=np.float32)


def _sentences(numbers: dict[str, Any], here: float) -> list[str]:
    said = [f"The loss here is {here:.4f} nats/token."]
    for name, found in numbers["lines"].items():
        rise = max(found["loss"]) - here
        lowest = int(np.argmin(found["loss"]))
        drop = here - found["loss"][lowest]
        where = f"; lowest {drop:.2g} below, at {found['distance'][lowest]:+.3g}" if drop > 1e-4 else ""
        said.append(
            f"Along the {name} direction it rises by {rise:.3g} within {SPAN[name]:g} of the parameters' norm{where}."
        )
    p = numbers["perturbed"]
    said.append(
        f"Noise of {p['noise']:g} on {p['parameter']} gives {p['mean']:.4f} on average "
        f"(spread {p['spread']:.2g}, from {p['min']:.4f} to {p['max']:.4f}), {p['mean'] - p['unperturbed']:+.2g}."
    )
    path = numbers["path"]
    if path is None:
        said.append(f"A path needs {ENOUGH} checkpoints: train with a larger --keep to see it.")
    else:
        said.append(
            f"The {len(path['steps'])} checkpoints lie to {path['explained']:.0%} in the plane that is drawn with them."
        )
    return said


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    lines, plane, path = figure.subplots(1, 3)
    for (name, found), colour, dash in zip(numbers["lines"].items(), COLOURS, DASHES, strict=False):
        share = np.array(found["distance"]) / max(found["distance"])
        lines.plot(share, found["loss"], color=colour, linestyle=dash, label=f"{name}, to {SPAN[name]:g}")
    lines.set_title("lines; gradient: uphill to the right", fontsize=10)
    lines.set_xlabel("distance, as a part of the span named")
    lines.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    dress(lines, "loss (nats/token)")
    _contours(plane, numbers["plane"], "random plane, filter-normalised")
    if numbers["path"] is None:
        path.set_axis_off()
        return
    _contours(path, numbers["path"]["plane"], "the run's path, principal plane")
    path.plot(numbers["path"]["x"], numbers["path"]["y"], "-o", color="black", markersize=3, linewidth=1)


def _contours(axes: Any, found: dict[str, Any], title: str) -> None:
    heights = np.array(found["loss"])
    finite = np.where(np.isfinite(heights), heights, np.nanmax(heights[np.isfinite(heights)]))
    drawn = axes.contour(found["x"], found["y"], finite, levels=12, cmap="cividis")
    axes.clabel(drawn, fontsize=7)
    axes.set_title(title, fontsize=10)
    dress(axes, "")
