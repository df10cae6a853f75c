"""The figure of a comparison over widths: final loss over the learning rate, one line per width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from minigpt_flax.compare.transfer import Family, Transfer
from minigpt_flax.runs.plots import fonts_for, plain, save
from minigpt_flax.runs.style import FONT, INK, look, style_axes

FIGURE = "widths"
COLUMNS, WIDTH, HEIGHT = 2, 3.4, 2.9  # panels in a row; inches of a panel
SHOWN, MARGIN = 0.8, 0.05  # nats above the lowest loss that the panels show, at most; beyond the losses
TICKS = 3  # labels of a learning rate in a panel, at most


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
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axes, family in zip(panels, families, strict=False):
        _draw_family(axes, family)
    for axes in panels[len(families) :]:
        axes.remove()
    losses = [loss for family in families for curve in family.curves for loss in curve.losses.values()]
    if finite := list(filter(math.isfinite, losses)):
        panels[0].set_ylim(min(finite) - MARGIN, min(min(finite) + SHOWN, max(finite) + MARGIN))
    panels[0].legend(fontsize=FONT - 2)
    figure.supxlabel("learning rate", fontsize=FONT)
    figure.supylabel("final validation loss (nats/token)", fontsize=FONT)


def _draw_family(axes: Axes, family: Family) -> None:
    axes.set_xscale("log")
    for i, curve in enumerate(family.curves):
        finite = {rate: loss for rate, loss in curve.losses.items() if math.isfinite(loss)}
        line, best = look(i, markersize=4), curve.optimum
        axes.plot(list(finite), list(finite.values()), label=f"width {curve.width}", **line)
        if best is not None:
            axes.plot(best.lr, best.loss, "*", color=line["color"], markersize=12, markeredgecolor=INK, zorder=5)
    style_axes(axes, "", ticks=4)
    rates = sorted({rate for curve in family.curves for rate in curve.losses})
    axes.set_xticks(shown := rates[:: math.ceil(len(rates) / TICKS) or 1], labels=[f"{rate:.2g}" for rate in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(plain(family.name), fontsize=FONT - 1)
