"""The picture of how the best learning rate changes with the width."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.transfer import read
from minigpt_flax.compare.transfer_figure import draw


def widths(figure: Figure, quick: bool) -> None:
    """Losses over the learning rate at three widths, as ``compare --widths`` draws them."""
    draw(figure, read())
