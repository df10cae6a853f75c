"""Pictures of runs of ``--preset course`` and ``demo``: curves, moments, the loss around the end."""

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

FLAGS = {
    "course": "--probe moments --probe ratios --keep 6 --eval-every 200 --log-every 5",
    "demo": "--log-every 10",
}
_KEPT: list[tempfile.TemporaryDirectory] = []


@cache
def trained(preset: str, quick: bool) -> Path:
    """Trains a preset once, in a folder that lasts as long as the process."""
    holder = tempfile.TemporaryDirectory(prefix="drawing-")
    flags = f"--preset {preset} --name {preset} --sample-tokens 0 {FLAGS[preset]} --out".split()
    shorter = f"--steps {steps(1000, True)} --eval-every 4 --log-every 1".split() if quick else []
    with contextlib.redirect_stdout(io.StringIO()):
        status = train.run(**parser.parser().parse([*flags, holder.name, *shorter]))
    if status:
        raise RuntimeError(f"training ended with status {status}")
    _KEPT.append(holder)
    return Path(holder.name) / preset


def run(figure: Figure, quick: bool) -> None:
    """Loss, learning rate and gradient norm of the course's run."""
    figure.set_size_inches(6.5, 6)
    draw_curves(figure, read_run(trained("course", quick)).records, "python train.py --preset course")


def demo(figure: Figure, quick: bool) -> None:
    """Loss, learning rate and gradient norm of the run that the README shows."""
    figure.set_size_inches(6.5, 6)
    draw_curves(figure, read_run(trained("demo", quick)).records, "python train.py --preset demo")


def moments(figure: Figure, quick: bool) -> None:
    """Adam's two moments and the length of the steps, role by role."""
    figure.set_size_inches(6.5, 3.6)
    title(figure, "Adam's moments and step sizes by role")
    records = [record for record in read_run(trained("course", quick)).records if "loss" in record]
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
    study(load(trained("course", quick), "last", 1 if quick else 4, lambda *_: None)).draw(figure)
