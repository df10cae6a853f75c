"""``--watch``: curves of a run, drawn in the terminal during training; without room or a terminal, progress lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.text import Text

from minigpt_flax.console.terminal import ProgressBar
from minigpt_flax.train.config.run_config import RunConfig

REDRAW = 0.5  # seconds between two drawings; each takes some hundredths
WIDEST, TALLEST = 100, 30
NARROWEST, LOWEST = 60, 18  # columns and rows that the curves need
SMALL = 7  # rows of the curves of learning rate and gradient norm
TICK = 13  # columns between two ticks of the x axis
POINTS = 200  # of a curve: means of neighboring steps

Points = Sequence[tuple[int | float, float]]


class LivePlot(ProgressBar):
    """The progress of a run with its curves above: loss, learning rate, gradient norm.

    Args:
      config: of the run.
      done: steps done before.
    """

    def __init__(self, config: RunConfig, done: int):
        super().__init__(config, done)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.steps: list[tuple[int | float, ...]] = []  # step, loss, learning rate, gradient norm
        self.validations: list[tuple[int, float]] = []
        self.drawn = 0.0

    @property
    def room(self) -> bool:
        """Whether this is a large enough terminal."""
        size = self.console.size
        return self.console.is_terminal and size.width >= NARROWEST and size.height >= LOWEST

    def __enter__(self) -> LivePlot:
        """Shows the curves, or the progress line."""
        if not self.room:
            super().__enter__()
            return self
        self.live.start()
        self.draw()
        return self

    def __exit__(self, *error: Any) -> None:
        """Removes the curves."""
        self.live.stop()
        super().__exit__(*error)

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records a step, and draws if a drawing is due."""
        self.steps.append((step, *(float(metrics[name]) for name in ("loss", "lr", "grad_norm"))))
        super().on_step(step, metrics)

    def move(self, step: int, text: str) -> None:
        """Updates the progress line, which is below the curves if there is room for them."""
        if not self.live.is_started:
            super().move(step, text)
            return
        self.bar.update(self.task, completed=step, description=text)
        if time.monotonic() - self.drawn > REDRAW:
            self.draw()

    def on_validation(self, step: int, results: Mapping[str, float]) -> None:
        """Adds a validation."""
        self.validations.append((step, results["val_loss"]))
        super().on_validation(step, results)

    def draw(self) -> None:
        """Draws the curves and the progress line."""
        self.drawn = time.monotonic()
        size = self.console.size
        width, height = min(size.width, WIDEST), min(size.height, TALLEST) - 2
        lines = page(self.steps, self.validations, width, height)
        self.live.update(Group(Text.from_ansi("\n".join(lines)), self.bar.get_renderable()), refresh=True)


def page(steps: Sequence[Sequence[int | float]], validations: Points, width: int, height: int) -> list[str]:
    """Draws all curves as lines of text.

    Args:
      steps: (step, loss, learning rate, gradient norm) of each step.
      validations: (step, loss) of each.
      width: columns.
      height: rows.
    """
    means = thin(np.array(steps).reshape(-1, 4))
    if not len(means):
        return ["no data yet ..."]
    curve = lambda column: list(zip(means[:, 0], means[:, column], strict=True))
    loss = chart({"loss": curve(1), "validation": validations}, width, height - SMALL)
    half = width // 2
    below = (chart({"learning rate": curve(2)}, half, SMALL), chart({"gradient norm": curve(3)}, half, SMALL))
    return [*loss, *(a + b for a, b in zip(*below, strict=True))]


def thin(rows: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Averages neighboring rows, at most ``points`` blocks of them; rows with a non-finite value are omitted.

    >>> thin(np.arange(8.0).reshape(4, 2), 2).tolist()
    [[1.0, 2.0], [5.0, 6.0]]
    """
    finite = rows[np.isfinite(rows).all(axis=1)]
    blocks = np.array_split(finite, min(points, len(finite))) if len(finite) else []
    return np.array([block.mean(axis=0) for block in blocks]).reshape(-1, rows.shape[1])


def chart(series: Mapping[str, Points], width: int, height: int) -> list[str]:
    """Draws curves in one frame with plotext: the first as a line, the others as points."""
    import plotext  # takes a tenth of a second

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(width, height)
    for i, (name, points) in enumerate(series.items()):
        if points:
            xs, ys = (list(map(float, column)) for column in zip(*points, strict=True))
            draw = plotext.scatter if i else plotext.plot
            draw(xs, ys, label=name, marker="o" if i else "braille")
    places = [x for points in series.values() for x, _ in points]
    ticks = np.unique(np.linspace(min(places), max(places), width // TICK).round().astype(int)).tolist()
    plotext.xticks(ticks, list(map(str, ticks)))
    lines = plotext.uncolorize(plotext.build()).split("\n")[:height]
    return [line.ljust(width)[:width] for line in lines]
