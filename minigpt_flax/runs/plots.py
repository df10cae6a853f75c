"""Figures of runs, from their records."""

from __future__ import annotations

import contextlib
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

from minigpt_flax.runs import files
from minigpt_flax.runs.schema import GRAD_NORM, LOSS, LR, STEP, VAL_LOSS, VAL_SEM
from minigpt_flax.runs.style import COLORS, MUTED, RC, compact, style_axes, style_axis
from minigpt_flax.text import escape, printable

Record = Mapping[str, Any]
DPI = 200


@functools.cache
def family_of(character: str) -> str | None:
    """Name of an installed font family that has a character, preferably the default one; None if no family has it."""
    if ord(character) in _characters_of(font_manager.findfont(FontProperties())):
        return FontProperties().get_family()[0]
    return next((entry.name for entry in _others() if ord(character) in _characters_of(entry.fname)), None)


@functools.cache
def _others() -> list[FontEntry]:
    """The installed upright fonts, sans-serif ones first, without those that draw a box for every character."""
    for path in set(font_manager.findSystemFonts()) - {font.fname for font in font_manager.fontManager.ttflist}:
        with contextlib.suppress(RuntimeError, OSError):  # a damaged font file
            font_manager.fontManager.addfont(path)  # installed after Matplotlib cached its list
    fonts = [f for f in font_manager.fontManager.ttflist if f.style == "normal" and f.weight in (400, "normal")]
    is_default_of_family = lambda f: (
        font_manager.findfont(FontProperties(family=f.name), fallback_to_default=False) == f.fname
    )
    fonts = [f for f in fonts if "Last Resort" not in f.name and is_default_of_family(f)]
    return sorted(fonts, key=lambda f: (not re.search("Sans|Hei|Gothic", f.name), f.name))


@functools.cache
def _characters_of(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # a damaged font file
        return frozenset()


def plain(text: str) -> str:
    r"""Untrusted text for a figure: without math mode, and with characters that no installed font has escaped.

    >>> plain("cost$x_$y"), plain("a\x1b")
    ('cost\\$x_\\$y', 'a\\x1b')
    """
    drawn = "".join(c if family_of(c) else escape(c) for c in printable(text))
    return drawn.replace("$", r"\$")


def fonts_for(*texts: str) -> AbstractContextManager[None]:
    """A context manager; figures made and saved inside it have the project's style and the fonts these texts need."""
    default = list(rcParams["font.family"])
    families = (family_of(c) for c in dict.fromkeys("".join(texts)))
    return rc_context(RC | {"font.family": list(dict.fromkeys([*default, *filter(None, families)]))})


SIGNED = {"png": ("Software",), "pdf": ("Creator", "CreationDate"), "svg": ("Creator", "Date")}  # date: none
FORMATS = tuple(SIGNED)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that the path's suffix names; the same figure gives the same bytes.

    Raises:
      OSError: the file can't be written.
      ValueError: Matplotlib doesn't know the format.
    """
    form = path.suffix[1:].lower() or "png"
    fields = SIGNED.get(form, ())
    metadata: dict[str, Any] = dict(zip(fields, (files.SIGNATURE, None), strict=False))
    with files.replacing(path) as file:
        figure.savefig(file, dpi=DPI, format=form, metadata=metadata or None)


def curves(records: Sequence[Record], path: Path, title: str) -> None:
    """Draws a run's training and validation loss, learning rate and gradient norm over steps.

    Args:
      records: records of ``metrics.jsonl``.
      path: image file to write.
      title: title of the figure.
    """
    with fonts_for(title):
        figure = Figure(figsize=(8, 7.5), layout="constrained")
        draw_curves(figure, records, title)
        save(figure, path)


def draw_curves(figure: Figure, records: Sequence[Record], title: str) -> None:
    """Draws the plots of :func:`curves` into an empty figure."""
    loss, lr, norm = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1, 1))
    figure.suptitle(plain(title), x=0.01, ha="left")
    loss.plot(*_series(records, LOSS), color=MUTED, linewidth=0.8, label="training batches")
    _validation(loss, records, COLORS[0], "-", "o", "validation split")
    loss.legend()
    lr.plot(*_series(records, LR), color=COLORS[3])
    steps, norms = _series(records, GRAD_NORM)
    norm.plot(steps, norms, color=COLORS[2], linewidth=0.8)
    if any(value > 0 for value in norms):  # of data of one token they are all 0
        norm.set_yscale("log")
    for axes, name in ((loss, "loss (nats/token)"), (lr, "learning rate"), (norm, "gradient norm")):
        style_axes(axes, name, ticks=6 if axes is loss else 3)
    style_axis(norm.xaxis)
    figure.align_ylabels()
    norm.set_xlabel("step")


def by_position(losses: Sequence[float | None], errors: Sequence[float | None], path: Path, title: str) -> None:
    """Draws the loss over the number of preceding tokens, with its standard error.

    Args:
      losses: mean loss at each position of the context; None for a position without tokens.
      errors: standard errors of ``losses``.
      path: image file to write; its suffix is the format.
      title: title of the figure.
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
    axes.fill_between(seen, low, high, color=COLORS[0], alpha=0.25, linewidth=0, label="standard error")
    axes.plot(seen, means, color=COLORS[0], marker="." if len(seen) < 100 else None, label="mean")
    axes.set_xscale("log", base=2)
    style_axes(axes, "loss (nats/token)")
    axes.xaxis.set_major_formatter(compact)
    axes.set_xlabel("context length (tokens)")
    axes.legend()


def _series(records: Sequence[Record], name: str, x: str = STEP) -> tuple[list[int | float], list[float]]:
    """The x and y values of every record that has a number under ``name``."""
    points = [(record[x], record[name]) for record in records if record.get(name) is not None]
    return [x for x, _ in points], [y for _, y in points]


def _validation(
    axes: Axes, records: Sequence[Record], color: str, dash: str, marker: str, label: str, x: str = STEP
) -> None:
    steps, losses = _series(records, VAL_LOSS, x)
    errors = _series(records, VAL_SEM, x)[1]
    axes.errorbar(steps, losses, yerr=errors, color=color, linestyle=dash, marker=marker, capsize=3, label=label)
