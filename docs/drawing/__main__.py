"""Draws the pictures of these pages from the library: ``python -m docs.drawing [NAME ...]``, into ``pictures/``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from docs.drawing import descent, geometry, minigpt, schedules, stability
from docs.drawing.canvas import save

FOLDER = Path(__file__).parents[1] / "pictures"
PICTURES: dict[str, Callable[[Figure, bool], None]] = {
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


def draw(name: str, folder: Path, quick: bool = False) -> Path:
    """Draws a picture into a folder; ``quick`` takes few steps, to see that it can be drawn."""
    figure = Figure(layout="constrained")
    PICTURES[name](figure, quick)
    path = folder / f"{name}.png"
    save(figure, path)
    return path


def main(names: list[str]) -> None:
    """Draws those named, or all."""
    for name in names or PICTURES:
        path = draw(name, FOLDER)
        print(f"wrote docs/pictures/{path.name}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
