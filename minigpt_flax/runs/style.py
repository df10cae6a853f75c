"""The style of every figure: colors, line styles of optimizers, tick labels, and labels at the ends of lines.

Lines also differ in dash and marker, for grayscale and color-blind readers. Each color has a contrast of at least 3.3
against white and against the dark background of the documentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator

COLORS = (
    "#3b82d0", "#1c9aa8", "#9a6bd0", "#bf7d00", "#dd4f1f", "#85898f",
    "#5b6be0", "#d94f9a", "#17975f", "#7f8c1a", "#a9694a", "#c93a55",
)  # fmt: skip
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
# The position of an optimizer is its line style in every figure. Optimizers that share a color (12 positions apart)
# don't appear together in the documentation.
OPTIMIZERS = (
    "adamw", "nadamw", "adam", "lion", "muon", "sgd", "ademamix", "mars", "soap", "adafactor", "lamb", "radam",
    "momentum", "rmsprop", "schedule_free", "adagrad", "sign_sgd",
)  # fmt: skip

INK, MUTED, FAINT = "#24292f", "#8d939c", "#e1e4e8"  # text, lines in the background, grid; on white
FONT = 12  # points: legible where a figure of 6.5 inches is shrunk to a phone
LINE = 1.8
RC: Any = {
    "font.size": FONT,
    "font.family": ["sans-serif"],
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": FONT,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.titlesize": FONT + 1,
    "figure.titleweight": "bold",
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": FONT,
    "legend.handlelength": 2.4,
    "lines.linewidth": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
}


def look(index: int, **more: Any) -> dict[str, Any]:
    """Color, dash and marker of the line at ``index``, then ``more``."""
    pick = lambda table: table[index % len(table)]
    return {"color": pick(COLORS), "linestyle": pick(DASHES), "marker": pick(MARKERS)} | more


def looks(names: Sequence[str]) -> list[dict[str, Any]]:
    """Line styles of optimizers: fixed for those in ``OPTIMIZERS``, the first free ones for others and repetitions.

    Args:
      names: names or specs, such as ``adamw(b2=0.99)``.
    """
    taken: dict[int, int] = {}  # position in names -> index of the line style
    for i, name in enumerate(names):
        word = re.match(r"\w*", name)
        index = OPTIMIZERS.index(word[0]) if word and word[0] in OPTIMIZERS else None
        if index is not None and index not in taken.values():
            taken[i] = index
    free = (index for index in range(len(names) + len(OPTIMIZERS)) if index not in set(taken.values()))
    rest = {i: next(free) for i in range(len(names)) if i not in taken}
    return [look((taken | rest)[i]) for i in range(len(names))]


def blend(color: str, other: str = INK, share: float = 0.35) -> str:
    """A color mixed with a share of another one: of the text, so that a colored label is legible."""
    mixed = (1 - share) * np.array(to_rgb(color)) + share * np.array(to_rgb(other))
    return to_hex(tuple(mixed))


def compact(x: Any, _: Any = None) -> str:
    """A tick label: 500, 1.5k, 2M.

    >>> compact(0.5), compact(999), compact(1500), compact(2e6), compact(5e-5)
    ('0.5', '999', '1.5k', '2M', '5·10⁻⁵')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= unit:
            return f"{x / unit:g}{name}"
    return f"{x:g}" if x == 0 or abs(x) >= 1e-4 else power(x)


def power(x: Any) -> str:
    """A label of a logarithmic axis, as a plain number near one and as a power of ten elsewhere.

    >>> power(0.01), power(30), power(1e-5), power(2e5)
    ('0.01', '30', '10⁻⁵', '2·10⁵')
    """
    if x == 0 or 1e-3 <= abs(x) < 1e4:
        return f"{x:g}"
    digits, exponent = f"{x:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


class PlainLogFormatter(LogFormatter):
    """Labels the same ticks of a logarithmic axis as its base class, by :func:`power`."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick, empty for an unlabeled one."""
        return power(x) if super().__call__(x, pos) else ""


def style_axis(axis: Axis, ticks: int = 6) -> None:
    """Tick labels that are short and don't touch.

    Args:
      axis: of an axes.
      ticks: largest number of intervals of a linear axis.
    """
    if axis.get_scale() == "log":
        for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
            set_formatter(PlainLogFormatter(labelOnlyBase=False, minor_thresholds=(1.2, 0.4)))
    elif isinstance(axis.get_major_locator(), MaxNLocator):  # not names, nor ticks that were set
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(compact))


def style_axes(axes: Axes, name: str, ticks: int = 6) -> None:
    """Sets the y label, short tick labels and a faint grid.

    Args:
      axes: to style.
      name: the y label.
      ticks: largest number of intervals of its linear axes.
    """
    axes.set_ylabel(name)
    axes.grid(True)
    for axis in (axes.xaxis, axes.yaxis):
        style_axis(axis, ticks)


def label_ends(axes: Axes, size: float = FONT) -> None:
    """Writes the label of each line right of its last point, and moves labels apart that would overlap.

    Args:
      axes: the right border of its x axis is moved to the last point.
      size: of the labels, points.
    """
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_") and np.size(line.get_xdata())]
    if not lines:
        return
    axes.set_xlim(right=max(np.max(np.asarray(line.get_xdata(), float)) for line in lines))
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout, so that the height of the axes is known
    box = axes.get_window_extent()
    point = figure.dpi / 72
    ends = np.clip([_end(axes, line) for line in lines], box.y0, box.y1) - box.y0
    for line, end, y in zip(lines, ends, spread(ends, 1.15 * size * point, box.height), strict=True):
        moved = abs(y - end) > 0.2 * size * point
        arrow = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0}
        axes.annotate(
            str(line.get_label()),
            (1, end / box.height),
            xytext=(18 if moved else 6, (y - end) / point),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=blend(str(line.get_color())),
            fontweight="bold" if line.get_linewidth() > LINE else "normal",
            arrowprops=arrow | {"relpos": (0, 0.5)} if moved else None,
        )


def _end(axes: Axes, line: Line2D) -> float:
    """Vertical position of the last finite point, pixels."""
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    points = points[np.isfinite(points).all(axis=1)]
    return float(line.get_transform().transform(points[-1])[1]) if len(points) else axes.get_window_extent().y0


def spread(places: Any, gap: float, height: float) -> np.ndarray:
    """Positions at least ``gap`` apart, as near as possible to ``places`` (least squares), within 0 to ``height``.

    >>> spread([0.0, 1.0, 9.0], 3.0, 10.0).tolist()
    [0.0, 3.0, 9.0]
    """
    order = np.argsort(places, kind="stable")
    shifted = np.asarray(places, float)[order] - gap * np.arange(len(order))
    blocks: list[list[float]] = []  # sum and size of neighbors at the same shifted position
    for value in shifted:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += size
    means = np.concatenate([np.full(int(size), total / size) for total, size in blocks]) if blocks else shifted
    room = max(0.0, height - gap * (len(order) - 1))
    result = np.empty(len(order))
    result[order] = np.clip(means, 0, room) + gap * np.arange(len(order))
    return result


def legend(figure: Figure) -> None:
    """Adds one legend for all axes below them, with as many columns as the width of the figure holds."""
    handles = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    longest = max((len(line) for label in handles for line in label.split("\n")), default=1)
    entry = FONT * (0.65 * longest + 4.2)  # points: the letters, the line and the space between columns
    columns = max(1, min(len(handles), int(72 * figure.get_figwidth() / entry)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, columnspacing=1.2)


def title(figure: Figure, text: str) -> None:
    """Writes the finding of a figure above it, left-aligned."""
    figure.suptitle(text, x=0.01, ha="left")
