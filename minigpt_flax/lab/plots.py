"""Pictures of runs, from their records.

They read in grey and for the colour-blind: lines differ in dash and marker too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

Record = Mapping[str, Any]

# Okabe and Ito's palette without its yellow, which is invisible on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#E69F00")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"
GREY = "0.55"


class Plain(LogFormatter):
    """Labels the same ticks of a logarithmic axis, with 0.6 instead of 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick; empty where there is none."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def curves(records: Sequence[Record], path: Path, title: str) -> None:
    """Draws one run: training and validation loss, learning rate, gradient norm.

    Args:
      records: lines of ``metrics.jsonl``.
      path: PNG to write.
      title: of the picture.
    """
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    draw_curves(figure, records, title)
    figure.savefig(path, dpi=120)


def draw_curves(figure: Figure, records: Sequence[Record], title: str) -> None:
    """Fills an empty figure with what :func:`curves` shows."""
    loss, lr, norm = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    figure.suptitle(title)
    loss.plot(*_series(records, "loss"), color=GREY, linewidth=1, label="training batches")
    _validation(loss, records, COLOURS[0], "-", "o", "validation split")
    loss.legend(frameon=False)
    lr.plot(*_series(records, "lr"), color=COLOURS[1])
    norm.plot(*_series(records, "grad_norm"), color=COLOURS[2], linewidth=1)
    norm.set_yscale("log")
    for place in (norm.yaxis.set_major_formatter, norm.yaxis.set_minor_formatter):
        place(Plain(labelOnlyBase=False, minor_thresholds=(2, 0.4)))
    for axes, name in ((loss, "loss (nats/token)"), (lr, "learning rate"), (norm, "gradient norm")):
        dress(axes, name)
    norm.set_xlabel("step")


def by_position(losses: Sequence[float | None], errors: Sequence[float | None], path: Path, title: str) -> None:
    """Draws the loss against the number of tokens seen, with its standard error.

    Args:
      losses: mean at each position of the context; None where there was no token.
      errors: of those.
      path: picture to write; its ending is the format.
      title: of the picture.
    """
    points = [(i, *pair) for i, pair in enumerate(zip(losses, errors, strict=True), start=1) if None not in pair]
    seen, means, spreads = zip(*points, strict=True)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title)
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(seen, low, high, color=COLOURS[0], alpha=0.25, linewidth=0, label="standard error")
    axes.plot(seen, means, color=COLOURS[0], marker="." if len(seen) < 100 else None, label="mean")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens seen")
    axes.legend(frameon=False)
    dress(axes, "loss (nats/token)")
    figure.savefig(path, dpi=120)


def _series(records: Sequence[Record], name: str, x: str = "step") -> tuple[list[int | float], list[float]]:
    """The x and y of every record that has a number of this name."""
    points = [(record[x], record[name]) for record in records if record.get(name) is not None]
    return [x for x, _ in points], [y for _, y in points]


def _validation(
    axes: Axes, records: Sequence[Record], colour: str, dash: str, marker: str, label: str, x: str = "step"
) -> None:
    steps, losses = _series(records, "val_loss", x)
    errors = _series(records, "val_sem", x)[1]
    axes.errorbar(steps, losses, yerr=errors, color=colour, linestyle=dash, marker=marker, capsize=3, label=label)


def dress(axes: Axes, name: str) -> None:
    """Gives axes their label, a faint grid and no box."""
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
