"""Pictures of the course's first page: convex and not, a valley, a saddle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from docs.drawing.canvas import contours, finish, line, steps, walk
from jaxopt_mini import sgd
from minigpt_flax.runs.style import COLORS, INK, MUTED, blend, look, power, title


def convex(figure: Figure, quick: bool) -> None:
    """A chord above a convex function and below another; the bound of gradient descent on logistic regression."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "A convex function lies below its chords, and\ngradient descent on it below a known bound")
    left, right = figure.subplots(1, 2)
    x = np.linspace(-2, 2, 200)
    for i, function in enumerate((_bowl, _waves)):
        line(left, i, x, function(x))
        ends = np.array([-1.6, 1.7])
        left.plot(ends, function(ends), color=MUTED, linewidth=1, marker="o", markersize=4)
    left.text(0.8, -0.05, "convex", color=blend(look(0)["color"]))
    left.text(0.1, 4.1, "not convex", ha="center", color=blend(look(4)["color"]))
    left.set_ylim(-0.2, 4.6)
    finish(left, "chords", "parameter", "loss", ticks=4)
    gap, bound = descent_and_bound(steps(300, quick))
    taken = np.arange(1, len(gap) + 1)
    line(right, 0, taken, gap, "measured")
    line(right, 1, taken, bound, "bound")
    right.set(xscale="log", yscale="log", ylim=(1e-6, 10))
    finish(right, "logistic regression", "step", "loss - minimum", ends=True)


def _bowl(x: np.ndarray) -> np.ndarray:
    return 0.6 * x**2 + 0.3 * x


def _waves(x: np.ndarray) -> np.ndarray:
    return 0.6 * x**2 - 1.2 * np.cos(3 * x) + 2


def descent_and_bound(length: int) -> tuple[np.ndarray, np.ndarray]:
    """How far above the least loss each step of gradient descent is on logistic regression, and may be."""
    x = jax.random.normal(jax.random.key(0), (200, 5))
    y = jnp.sign(x @ jnp.array([1.0, -2.0, 0.5, 0.0, 1.0]) + jax.random.normal(jax.random.key(1), (200,)))
    loss = lambda w: jnp.mean(jnp.log1p(jnp.exp(-y * (x @ w))))
    beta = jnp.linalg.eigvalsh(x.T @ x / len(x))[-1] / 4
    places, losses = walk(loss, sgd(1 / beta), jnp.zeros(5), 5000)
    far = float(np.sum((places[0] - places[-1]) ** 2))
    return losses[1 : length + 1] - losses[-1], far * float(beta) / 2 / np.arange(1, length + 1)


def ravine(w: jax.Array) -> jax.Array:
    """A parabola ten times as steep along the second axis as along the first."""
    return (w[0] ** 2 + 10 * w[1] ** 2) / 2


def valley(figure: Figure, quick: bool) -> None:
    """Gradient descent in a valley: too slow, just stable, diverging."""
    figure.set_size_inches(6.5, 3.0)
    title(figure, "A small learning rate is slow, a large one diverges")
    for axes, share in zip(figure.subplots(1, 3, sharey=True), (0.3, 1.9, 2.05), strict=True):
        contours(axes, ravine, (-2.2, 2.2), (-1.6, 1.6))
        places, _ = walk(ravine, sgd(share / 10), [-2.0, 1.0], steps(25, quick))
        axes.plot(*places.T, color=COLORS[0], marker="o", markersize=3.5, linewidth=1)
        axes.plot(0, 0, "+", color=INK, markersize=10)
        finish(axes, f"\u03b7 \u03bb\u2098\u2090\u2093 = {share:g}", "flat direction", "", ticks=3)
        axes.grid(False)
    figure.axes[0].set_ylabel("steep direction")


def horse(w: jax.Array) -> jax.Array:
    """A saddle at the origin, and a minimum one step to either side of its ridge."""
    return w[0] ** 2 / 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4


def saddle(figure: Figure, quick: bool) -> None:
    """Gradient descent beside the ridge of a saddle leaves it, the later the nearer it began."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "The closer to the ridge, the longer the plateau")
    left, right = figure.subplots(1, 2)
    contours(left, horse, (-1.3, 1.3), (-1.4, 1.4), levels=14)
    for i, offset in enumerate((1e-1, 1e-3, 1e-6, 0.0)):
        places, losses = walk(horse, sgd(0.1), [1.2, offset], steps(250, quick))
        line(left, i, *places.T)
        line(right, i, np.arange(len(losses)), losses, power(offset))
    left.plot([0, 0, 0], [0, 1, -1], "+", color=INK, linestyle="none", markersize=9)
    finish(left, "paths", "first parameter", "second parameter", ticks=3)
    left.grid(False)
    finish(right, "gradient descent, \u03b7 = 0.1", "step", "loss")
    right.legend(title="distance from the ridge", alignment="left")
