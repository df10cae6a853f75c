"""What the pictures share: a walk of an optimizer, contours under it, lines that can be told apart without colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxopt_mini import apply_updates
from minigpt_flax.runs.plots import COLORS, DASHES, MARKERS, style_axes

DPI = 100  # with 256 colours a picture stays below 80 kB
QUICK = 50  # times fewer steps, to see that a picture can be drawn


def steps(full: int, quick: bool) -> int:
    """Number of steps: all of them, or enough to see that it runs."""
    return max(4, full // QUICK) if quick else full


def places(loss: Callable, tx: Any, start: Any, length: int) -> jax.Array:
    """Where ``length`` steps of ``tx`` down ``loss`` lead, [length + 1, n], the start first."""
    start = jnp.asarray(start)

    def step(carry, _):
        place, state = carry
        updates, state = tx.update(jax.grad(loss)(place), state, place)
        place = apply_updates(place, updates)
        return (place, state), place

    _, reached = jax.lax.scan(step, (start, tx.init(start)), length=length)
    return jnp.concatenate([start[None], reached])


def walk(loss: Callable, tx: Any, start: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The :func:`places`, and the losses there."""
    reached = places(loss, tx, start, length)
    return np.asarray(reached), np.asarray(jax.vmap(loss)(reached))


def answers(tx: Any, gradients: Any, start: Any) -> np.ndarray:
    """The updates that ``tx`` makes of a sequence of gradients, [steps, ...]; the parameters stay."""

    def step(state, gradient):
        update, state = tx.update(gradient, state, start)
        return state, update

    return np.asarray(jax.lax.scan(step, tx.init(start), jnp.asarray(gradients))[1])


def contours(axes: Axes, loss: Callable, x: tuple[float, float], y: tuple[float, float], levels: int = 14) -> None:
    """Contours of a loss of two parameters in grey; their distance is even in the fourth root of the height."""
    across, up = np.meshgrid(np.linspace(*x, 160), np.linspace(*y, 160))
    height = np.asarray(jax.vmap(jax.vmap(loss))(jnp.stack([across, up], axis=-1)))
    even = (height - height.min()) ** 0.25
    axes.contour(across, up, even, levels=levels, colors="0.75", linewidths=0.6)
    axes.set(xlim=x, ylim=y)


def line(axes: Axes, i: int, x: Any, y: Any, label: str | None = None, marks: Sequence[int] = ()) -> None:
    """The i-th line of a picture: its own colour and dash, and its own marker at the indices ``marks``."""
    axes.plot(
        x,
        y,
        color=COLORS[i % len(COLORS)],
        linestyle=DASHES[i % len(DASHES)],
        linewidth=1.5,
        marker=MARKERS[i % len(MARKERS)] if len(marks) else None,
        markevery=list(marks) or None,
        markersize=4,
        label=label,
    )


def finish(axes: Axes, title: str, x: str, y: str, legend: bool = True) -> None:
    """Title, labels, a faint grid, and the legend without a box."""
    style_axes(axes, y)
    axes.set_xlabel(x)
    axes.set_title(title, fontsize=10)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def save(figure: Figure, path: Path) -> None:
    """Writes a picture in at most 256 colours, without the date and the version that would change it."""
    from PIL import Image

    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
