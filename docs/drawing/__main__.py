"""Draws the pictures of these pages from the library: ``python -m docs.drawing [NAME ...]``, into ``pictures/``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from docs.drawing import descent, geometry, minigpt, schedules, stability, standings, transfer
from docs.drawing.svg import save
from minigpt_flax.runs.style import RC

FOLDER = Path(__file__).parents[1]
COURSE: dict[str, Callable[[Figure, bool], None]] = {
    "convex": geometry.convex,
    "valley": geometry.valley,
    "saddle": geometry.saddle,
    "paths": descent.paths,
    "average": descent.average,
    "rates": descent.rates,
    "decay": descent.decay,
    "schedules": schedules.every,
    "early-steps": schedules.early,
    "ends": schedules.ends,
    "exploding": stability.exploding,
    "clips": stability.clips,
    "spike": stability.spike,
    "edge": stability.edge,
    "course-run": minigpt.run,
    "moments": minigpt.moments,
    "landscape": minigpt.landscape,
}
RESULTS: dict[str, Callable[[Figure, bool], None]] = {
    "demo": minigpt.demo,
    "compare-loss": standings.example,
    "compare-rates": standings.tried,
    "transfer": transfer.widths,
    **{f"reference-{part}-final": partial(standings.finals, part) for part in standings.DATA},
    **{f"reference-{part}-loss": partial(standings.draw, part) for part in standings.DATA if standings.recorded(part)},
}
PICTURES = COURSE | RESULTS


def draw(name: str, folder: Path, quick: bool = False) -> Path:
    """Draws a picture and its dark twin; those of the course in Chinese too.

    Args:
      name: one of ``PICTURES``.
      folder: of the pages; pictures go to ``pictures/`` and ``zh/pictures/``.
      quick: takes few steps, to see that it can be drawn.
    """
    path = folder / "pictures" / f"{name}.svg"
    with rc_context(RC):
        figure = Figure(layout="constrained")
        PICTURES[name](figure, quick)
        save(figure, path, folder / "zh" / "pictures" if name in COURSE else None)
    return path


def main(names: list[str]) -> None:
    """Draws those named, or all."""
    for name in names or PICTURES:
        path = draw(name, FOLDER)
        print(f"wrote docs/pictures/{path.name}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
