"""The figure of a tuning: one small plot per keyword, with the loss at the neighbors of the best setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.plots import fonts_for, plain, save
from minigpt_flax.runs.style import COLORS, FONT, LINE, MUTED
from minigpt_flax.tune.axes import LOG, ONE_MINUS, TO, Axis
from minigpt_flax.tune.results import FIGURE, JUDGE, TuningResult
from minigpt_flax.tune.tuning import Number

COLUMNS, WIDTH, HEIGHT = 3, 2.6, 2.6  # plots in a row; inches of a plot
TICKS = 4  # labels of a horizontal axis, at most


def save_figure(result: TuningResult, folder: Path, formats: Sequence[str]) -> list[str]:
    """Draws and writes the figure; returns the names of the files.

    Raises:
      UserError: a file can't be written.
    """
    names = [f"{FIGURE}.{form}" for form in formats]
    with fonts_for(*result.best):
        figure = draw(result)
        for name in names:
            try:
                save(figure, folder / name)
            except OSError as error:
                raise UserError(f"can't write {show(folder / name)}: {error.strerror}") from error
    return names


def draw(result: TuningResult) -> Figure:
    """One plot per keyword: full runs as dots, and a line through the best setting and its neighbors."""
    axes = result.tuning.axes
    columns = min(COLUMNS, len(axes))
    rows = math.ceil(len(axes) / columns)
    figure = Figure(figsize=(WIDTH * columns + 0.8, HEIGHT * rows + 0.4), layout="constrained")
    plots = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axis, plot in zip(axes, plots, strict=False):
        _draw_axis(plot, axis, result)
    for plot in list(plots):
        plot.remove()
    figure.supylabel("validation loss (nats/token)", fontsize=FONT)
    return figure


def _draw_axis(plot: Axes, axis: Axis, result: TuningResult) -> None:
    place = TO[axis.scale] if axis.scale in TO else TO[LOG] if min(axis.values) > 0 else float
    full = [t for t in result.trials if t.stage != JUDGE and t.steps == result.tuning.steps and math.isfinite(t.loss)]
    dots = [(value, trial.loss) for trial in full if (value := trial.values[axis.name]) is not None]
    plot.scatter([place(value) for value, _ in dots], [loss for _, loss in dots], s=16, color=MUTED)
    best = result.best[axis.name]
    line = [(best, result.loss), *((v, loss) for v, loss in filter(None, result.sides[axis.name]) if _drawn(loss))]
    line.sort()
    xs, ys = [place(value) for value, _ in line], [loss for _, loss in line]
    plot.plot(xs, ys, color=COLORS[0], linewidth=LINE, marker="o")
    plot.plot([place(best)], [result.loss], color=COLORS[4], marker="*", markersize=14, linestyle="")
    _label(plot, axis, sorted({value for value, _ in (*dots, *line)}), place)


def _drawn(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def _label(plot: Axes, axis: Axis, values: Sequence[Number], place: Callable[[float], float]) -> None:
    """Labels some of the values, and names the keyword with its scale."""
    some = values[:: math.ceil(len(values) / TICKS)]
    names = {place(value): f"{value:g}" for value in some}
    plot.xaxis.set_major_locator(FixedLocator(list(names)))
    plot.xaxis.set_minor_locator(NullLocator())
    plot.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(x, "")))
    plot.tick_params(labelsize=FONT - 3)
    scale = {LOG: " (log)", ONE_MINUS: " (1-x)"}.get(axis.scale, "")
    plot.set_xlabel(plain(axis.name) + scale, fontsize=FONT - 1)
    plot.grid(True, axis="y")
