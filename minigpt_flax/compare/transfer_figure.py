"""The figure of a comparison over widths: final loss over the learning rate, one line per width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from minigpt_flax.compare.transfer import Family, Transfer
from minigpt_flax.runs.plots import fonts_for, plain, save
from minigpt_flax.runs.style import FONT, blend, look, style_axes

FIGURE = "widths"
COLUMNS, WIDTH, HEIGHT = 2, 3.4, 2.9  # panels in a row; inches of a panel
SHOWN = 1.0  # nats above the lowest loss that the panels show


def save_figure(transfer: Transfer, folder: Path, formats: Sequence[str]) -> list[str]:
    """Draws and writes the figure; returns the names of the files.

    Raises:
      OSError: a file can't be written.
    """
    names = [f"{FIGURE}.{form}" for form in formats]
    with fonts_for(*(family.name for family in transfer.families)):
        figure = Figure(layout="constrained")
        draw(figure, transfer)
        for name in names:
            save(figure, folder / name)
    return names


def draw(figure: Figure, transfer: Transfer) -> None:
    """A panel for each optimizer and parametrization; a star marks the best learning rate of each width."""
    families = transfer.families
    columns = min(COLUMNS, len(families))
    rows = math.ceil(len(families) / columns)
    figure.set_size_inches(WIDTH * columns, HEIGHT * rows + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, family in zip(panels, families, strict=False):
        _draw_family(axes, family)
    for axes in panels[len(families) :]:
        axes.remove()
    figure.supxlabel("learning rate", fontsize=FONT)
    figure.supylabel("final validation loss (nats/token)", fontsize=FONT)


def _draw_family(axes: Axes, family: Family) -> None:
    lowest = []
    for i, curve in enumerate(family.curves):
        finite = {rate: loss for rate, loss in curve.losses.items() if math.isfinite(loss)}
        line, best = look(i, markersize=4), curve.optimum
        axes.plot(list(finite), list(finite.values()), label=f"width {curve.width}", **line)
        lowest += [min(finite.values())] if finite else []
        if best is not None:
            axes.plot(best.lr, best.loss, "*", color=blend(line["color"]), markersize=13, zorder=5)
    axes.set_xscale("log", base=10)
    if lowest:
        axes.set_ylim(min(lowest) - 0.05, min(lowest) + SHOWN)
    style_axes(axes, "", ticks=4)
    axes.xaxis.set_major_locator(LogLocator(numticks=6))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(plain(family.name), fontsize=FONT - 1)
    axes.legend(fontsize=FONT - 3)
