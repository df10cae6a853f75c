"""Pictures of one run of ``--preset course``: its curves, its moments, the loss around its end."""

from __future__ import annotations

import contextlib
import io
import tempfile
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure

from docs.drawing.canvas import finish, line, steps
from minigpt_flax.cli import parser, train
from minigpt_flax.diagnose.checkpoint_view import load
from minigpt_flax.diagnose.landscape import study
from minigpt_flax.runs.plots import draw_curves
from minigpt_flax.runs.records import read_run
from minigpt_flax.runs.style import title

FLAGS = "--preset course --probe moments --probe ratios --keep 6 --sample-tokens 0 --name course"

_KEPT: list[tempfile.TemporaryDirectory] = []


@cache
def trained(quick: bool) -> Path:
    """Trains the course's MiniGPT once, in a folder that lasts as long as the process."""
    holder = tempfile.TemporaryDirectory(prefix="course-")
    length = steps(1000, quick)
    flags = [*FLAGS.split(), "--out", holder.name, "--steps", str(length), "--eval-every", str(max(1, length // 5))]
    flags += ["--log-every", str(max(1, length // 200))]
    with contextlib.redirect_stdout(io.StringIO()):
        status = train.run(**parser.parser().parse(flags))
    if status:
        raise RuntimeError(f"training ended with status {status}")
    _KEPT.append(holder)
    return Path(holder.name) / "course"


def run(figure: Figure, quick: bool) -> None:
    """Loss, learning rate and gradient norm."""
    figure.set_size_inches(6.5, 6)
    draw_curves(figure, read_run(trained(quick)).records, "python train.py --preset course")


def moments(figure: Figure, quick: bool) -> None:
    """Adam's two moments and the length of the steps, role by role."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "Adam's moments and step sizes by role")
    records = [record for record in read_run(trained(quick)).records if "loss" in record]
    panels = {"mu_norm": "first moment", "nu_norm": "second moment", "update_ratio": "update / weight"}
    for axes, (name, heading) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for i, role in enumerate(("matrix", "embedding", "vector")):
            line(axes, i, [r["step"] for r in records], [r[f"{name}/{role}"] for r in records], role)
        axes.set_yscale("log")
        finish(axes, heading, "step", "norm" if name == "mu_norm" else "", ticks=3)
    figure.legend(handles=figure.axes[0].lines, loc="outside lower center", ncols=3)


def landscape(figure: Figure, quick: bool) -> None:
    """Lines, a plane, and the run's path, as ``diagnose --only landscape`` draws them."""
    figure.set_size_inches(6.5, 6.5)
    study(load(trained(quick), "last", 1 if quick else 4, lambda *_: None)).draw(figure)
