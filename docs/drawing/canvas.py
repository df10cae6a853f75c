"""What the pictures share: a walk of an optimizer, contours under it, lines that can be told apart without color."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet

from jaxopt_mini import apply_updates
from minigpt_flax.runs.style import FAINT, label_ends, look, looks, style_axes

SEPARATE = (0, 4, 8, 3, 7, 10)  # the line styles of lines that aren't optimizers: those that differ most
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


def contours(axes: Axes, loss: Callable, x: tuple[float, float], y: tuple[float, float], levels: int = 9) -> None:
    """Contours of a loss of two parameters in gray; their distance is even in the fourth root of the height."""
    across, up = np.meshgrid(np.linspace(*x, 48), np.linspace(*y, 48))
    height = np.asarray(jax.vmap(jax.vmap(loss))(jnp.stack([across, up], axis=-1)))
    even = (height - height.min()) ** 0.25
    between = np.linspace(0, even.max(), levels + 2)[1:-1]
    simplified(axes.contour(across, up, even, levels=between, colors=FAINT, linewidths=1.0))
    axes.set(xlim=x, ylim=y)


def simplified(contours: ContourSet) -> None:
    """Leaves out the points of contours that don't change what is seen."""
    for path in contours.get_paths():
        path.should_simplify, path.simplify_threshold = True, 0.3


def line(axes: Axes, i: int | str, x: Any, y: Any, label: str | None = None, marks: Sequence[int] = ()) -> None:
    """A line of a picture: its own color and dash, and its own marker at the indices ``marks``.

    Args:
      axes: where.
      i: number of the line, or the name of an optimizer, which has the same line in all pictures.
      x: float[n].
      y: float[n].
      label: for the legend or the end of the line.
      marks: indices.
    """
    own = looks([i])[0] if isinstance(i, str) else look(SEPARATE[i])
    x, y = thinned(np.asarray(x, float), np.asarray(y, float)) if not len(marks) else (x, y)
    axes.plot(
        x,
        y,
        color=own["color"],
        linestyle=own["linestyle"],
        marker=own["marker"] if len(marks) else None,
        markevery=list(marks) or None,
        markersize=5,
        label=label,
    )


def thinned(x: np.ndarray, y: np.ndarray, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``most`` points of a line, which is more than a screen shows."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).astype(int))
    return x[kept], y[kept]


def finish(axes: Axes, title: str, x: str, y: str, ends: bool = False, ticks: int = 5) -> None:
    """Title, labels and a faint grid.

    Args:
      axes: what is drawn.
      title: above the axes.
      x: label.
      y: label.
      ends: whether lines have their labels at their ends.
      ticks: largest number of intervals of a linear axis.
    """
    style_axes(axes, y, ticks)
    axes.set_xlabel(x)
    axes.set_title(title)
    if ends:
        label_ends(axes)


def small(axes: Axes, ticks: bool) -> None:
    """Removes the grid of one of many small panels, and its ticks if a neighbor shows them."""
    axes.grid(False)
    if not ticks:
        axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
