"""Pictures of runs, from their records.

They read in grey and for the colour-blind: lines differ in dash and marker too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib import font_manager, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import LogFormatter

from minigpt_flax.runs import files
from minigpt_flax.text import escape, printable

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


@functools.cache
def family_of(character: str) -> str | None:
    """Name of an installed font family that can draw a character, the default font's if it can; None if none can."""
    default = font_manager.findfont(FontProperties())
    for entry in [None, *_others()]:
        path = default if entry is None else entry.fname
        if ord(character) in _characters_of(path):
            return FontProperties().get_family()[0] if entry is None else entry.name
    return None


@functools.cache
def _others() -> list[FontEntry]:
    """The installed upright fonts, those without serifs first; but none that draws a box for every character."""
    fonts = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and f.weight in (400, "normal")]
    chosen = lambda f: font_manager.findfont(FontProperties(family=f.name), fallback_to_default=False) == f.fname
    fonts = [f for f in fonts if "Last Resort" not in f.name and chosen(f)]
    return sorted(fonts, key=lambda f: (not re.search("Sans|Hei|Gothic", f.name), f.name))


@functools.cache
def _characters_of(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # a damaged file
        return frozenset()


def plain(text: str) -> str:
    r"""Text of others as a picture can show it: no mathematics, characters that no installed font has are escaped.

    >>> plain("cost$x_$y"), plain("a\x1b")
    ('cost\\$x_\\$y', 'a\\x1b')
    """
    drawn = "".join(c if family_of(c) else escape(c) for c in printable(text))
    return drawn.replace("$", r"\$")


def fonts_for(*texts: str) -> AbstractContextManager[None]:
    """A context in which figures are made and saved with the fonts that these texts need."""
    default = list(rcParams["font.family"])
    found = (family_of(c) for c in dict.fromkeys("".join(texts)))
    return rc_context({"font.family": list(dict.fromkeys([*default, *filter(None, found)]))})


def save(figure: Figure, path: Path) -> None:
    """Writes a picture; its suffix is the format.

    Raises:
      OSError: it can't be written.
      ValueError: no such format.
    """
    form = path.suffix[1:].lower() or "png"
    field = {"png": "Software", "pdf": "Creator", "svg": "Creator"}.get(form)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120, format=form, metadata={field: files.SIGNATURE} if field else None)


def curves(records: Sequence[Record], path: Path, title: str) -> None:
    """Draws one run: training and validation loss, learning rate, gradient norm.

    Args:
      records: lines of ``metrics.jsonl``.
      path: PNG to write.
      title: of the picture.
    """
    with fonts_for(title):
        figure = Figure(figsize=(8, 7.5), layout="constrained")
        draw_curves(figure, records, title)
        save(figure, path)


def draw_curves(figure: Figure, records: Sequence[Record], title: str) -> None:
    """Fills an empty figure with what :func:`curves` shows."""
    loss, lr, norm = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    figure.suptitle(plain(title))
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
    with fonts_for(title):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        _draw_by_position(figure, losses, errors, title)
        save(figure, path)


def _draw_by_position(
    figure: Figure, losses: Sequence[float | None], errors: Sequence[float | None], title: str
) -> None:
    points = [(i, *pair) for i, pair in enumerate(zip(losses, errors, strict=True), start=1) if None not in pair]
    seen, means, spreads = zip(*points, strict=True)
    axes = figure.subplots()
    figure.suptitle(plain(title))
    low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
    axes.fill_between(seen, low, high, color=COLOURS[0], alpha=0.25, linewidth=0, label="standard error")
    axes.plot(seen, means, color=COLOURS[0], marker="." if len(seen) < 100 else None, label="mean")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("tokens seen")
    axes.legend(frameon=False)
    dress(axes, "loss (nats/token)")


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
