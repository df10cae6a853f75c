"""The style of every figure: colors, line styles of optimizers, tick labels, and labels at the ends of lines.

Lines also differ in dash and marker, for grayscale and color-blind readers. Each color has a contrast of at least 3.3
against white and against the dark background of the documentation.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

COLORS = (
    "#3b82d0", "#1c9aa8", "#9a6bd0", "#bf7d00", "#dd4f1f", "#85898f",
    "#5b6be0", "#d94f9a", "#17975f", "#7f8c1a", "#a9694a", "#c93a55",
)  # fmt: skip
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vP*"  # x marks a diverged run
COMBINATIONS = len(DASHES) * len(MARKERS)  # any two lines at most so many positions apart differ without color
STYLES = COMBINATIONS * len(COLORS)
# The position of an optimizer is its line style in every figure; a hash of its name is that of any other.
OPTIMIZERS = (
    "adamw", "nadamw", "adam", "lion", "muon", "sgd", "ademamix", "mars", "soap", "adafactor", "lamb", "radam",
    "momentum", "rmsprop", "schedule_free_adamw", "adagrad", "sign_sgd",
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
    "pdf.fonttype": 42,  # TrueType: some publishers refuse Type 3
    "svg.hashsalt": "minigpt_flax",  # the same figure gives the same file
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
    """Line styles of optimizers, which depend on their names alone as long as no two in a figure would look alike.

    Args:
      names: names or specs, such as ``adamw(b2=0.99)``. The first with a name in ``OPTIMIZERS`` has its line style.
    """
    words = list(map(_word, names))
    first = {word: words.index(word) for word in words}
    taken = {i: OPTIMIZERS.index(word) for word, i in first.items() if word in OPTIMIZERS}  # indices of line styles
    for i, name in enumerate(names):
        if i not in taken:
            taken[i] = _free(zlib.crc32(name.encode("utf-8", "replace")) % STYLES, taken.values())
    return [look(taken[i]) for i in range(len(names))]


def line_styles(specs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Line styles of candidates: that of its optimizer if it is the only one that has it, else of its name.

    Args:
      specs: optimizer's spec, or empty, by the candidate's name.
    """
    words = [_word(spec) for spec in specs.values()]
    keys = [spec if spec and words.count(_word(spec)) == 1 else name for name, spec in specs.items()]
    return dict(zip(specs, looks(keys), strict=True))


def _word(spec: str) -> str:
    """The name in a spec."""
    return re.split(r"\W", spec, maxsplit=1)[0]


def _free(start: int, taken: Collection[int]) -> int:
    """The first line style from ``start`` whose color, dash and marker differ most from those taken."""
    indices = [(start + k) % STYLES for k in range(STYLES)]
    clash = lambda i, period: any(i % period == other % period for other in taken)
    return min(indices, key=lambda i: (clash(i, COMBINATIONS), clash(i, len(COLORS)), clash(i, STYLES)))


def blend(color: str, other: str = INK, share: float = 0.35) -> str:
    """A color mixed with a share of another one: of the text, so that a colored label is legible."""
    mixed = (1 - share) * np.array(to_rgb(color)) + share * np.array(to_rgb(other))
    return to_hex(tuple(mixed))


DARK_INK = "#e3e6ea"
DARK = {  # color of a figure on white -> on a dark background; those of lines stay
    INK: DARK_INK,
    MUTED: "#767d87",
    FAINT: "#33373d",
    blend(MUTED): blend(MUTED, DARK_INK),
    **{blend(color): blend(color, DARK_INK) for color in COLORS},
}


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
    """Writes the label of each line right of the axes, and moves labels apart that would overlap.

    Args:
      axes: the right border of its x axis is moved to the last point.
      size: of the labels, points.
    """
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_") and len(_points(line))]
    if not lines:
        return
    axes.set_xlim(right=axes.dataLim.x1)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout, so that the size of the axes is known
    box, point = axes.get_window_extent(), figure.dpi / 72
    ends = np.array([line.get_transform().transform(_points(line)[-1]) for line in lines]) - (box.x0, box.y0)
    ends = np.clip(ends, 0, (box.width, box.height))
    heights = [1.2 * size * point * (1 + str(line.get_label()).count("\n")) for line in lines]
    for line, (x, y), place in zip(lines, ends, spread(ends[:, 1], heights, box.height), strict=True):
        joined = abs(place - y) > 0.2 * size * point or x < box.width - 1
        arrow = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0}
        axes.annotate(
            str(line.get_label()),
            (x / box.width, y / box.height),
            xytext=(1, y / box.height),
            xycoords="axes fraction",
            textcoords=axes.transAxes + _offset(figure, 18.0 if joined else 6.0, (place - y) / point),
            va="center",
            fontsize=size,
            color=blend(str(line.get_color())),
            fontweight="bold" if line.get_linewidth() > 1.25 * LINE else "normal",
            arrowprops=arrow | {"relpos": (0, 0.5)} if joined else None,
        )


def _offset(figure: Figure, x: float, y: float) -> ScaledTranslation:
    """A translation by so many points."""
    return ScaledTranslation(x / 72, y / 72, figure.dpi_scale_trans)


def _points(line: Line2D) -> np.ndarray:
    """The finite points of a line in data coordinates, [n, 2]."""
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    return points[np.isfinite(points).all(axis=1)]


def spread(places: Any, heights: Sequence[float], room: float) -> np.ndarray:
    """Centers of labels that don't overlap, as near as possible to ``places`` (least squares), within 0 to ``room``.

    Args:
      places: wanted centers.
      heights: of the labels.
      room: height of the axes.

    >>> spread([0.0, 1.0, 9.0], [3.0, 3.0, 3.0], 10.0).tolist()
    [0.0, 3.0, 9.0]
    """
    order = np.argsort(places, kind="stable")
    sorted_heights = np.asarray(heights, float)[order]
    gaps = (sorted_heights[1:] + sorted_heights[:-1]) / 2
    offsets = np.concatenate([[0.0], np.cumsum(gaps)])
    blocks: list[list[float]] = []  # sum and size of neighbors at the same shifted position
    for value in np.asarray(places, float)[order] - offsets:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += size
    means = np.concatenate([np.full(int(size), total / size) for total, size in blocks])
    result = np.empty(len(order))
    result[order] = np.clip(means, 0, max(0.0, room - offsets[-1])) + offsets
    return result


def title(figure: Figure, text: str) -> None:
    """Writes the finding of a figure above it, left-aligned."""
    figure.suptitle(text, x=0.01, ha="left")
