"""Pictures of recorded comparisons: losses over the steps, over the learning rate, and at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import RESULTS
from minigpt_flax.compare.figures import LOSS_LABEL, draw_band, draw_rates, finish, interval_plot, line_plots
from minigpt_flax.compare.paired_tests import t_interval
from minigpt_flax.runs.style import INK, LINE, MUTED, label_ends, line_styles, looks, style_axes, title

FILE = RESULTS / "amd-epyc-2-cores.json"
SPELLED = {"adamw": "AdamW", "soap": "SOAP", "muon": "Muon", "sgd": "SGD", "nadamw": "NAdamW", "adam": "Adam"}
RATES_FILE, RATES_STEPS = RESULTS / "intel-r-xeon-r-processor-2-cores.json", 150
TRIED = ("soap", "lion", "muon", "mars", "lamb", "momentum")  # optimizers with at least four recorded learning rates
DATA = {"pydocs": "the Python documentation", "shakespeare": "tiny Shakespeare"}


def result_of(part: str) -> Mapping[str, Any]:
    """The result of a part of the comparison."""
    return json.loads(FILE.read_text(encoding="utf-8"))[f"reference, {part}"]


def recorded(part: str) -> bool:
    """Whether the result of a part has curves."""
    return any("curve" in standing for standing in result_of(part)["standings"])


def draw(part: str, figure: Figure, quick: bool) -> None:
    """Draws the recorded result of a part."""
    losses(figure, result_of(part), DATA[part])


def losses(figure: Figure, result: Mapping[str, Any], data: str) -> None:
    """Mean validation loss over the seeds, in a band from minimum to maximum.

    The baseline and the best two of the others are drawn thick; dots mark where these reach its final loss.

    Args:
      figure: empty.
      result: of the comparison, as JSON values; standings without a ``curve`` are left out.
      data: what was trained on.
    """
    figure.set_size_inches(6.5, 4.6)
    shown = [standing for standing in result["standings"] if "curve" in standing]
    names = [standing["name"] for standing in shown]
    baseline = next((standing for standing in shown if standing["name"] == result["first"]), None)
    best = [standing for standing in shown if standing is not baseline][:2]
    axes = figure.subplots()
    for standing, line in zip(shown, looks(names), strict=True):
        _line(axes, standing, line, thick=standing is baseline or standing in best)
    title(figure, finding(best, baseline, result["steps"]))
    finals = [standing["mean"] for standing in shown]
    low, high = min(finals), max(finals)
    axes.set(ylim=(low - 0.06 * (high - low), high + 0.9 * (high - low)), xlim=(0, None))
    if baseline is not None:
        _crossings(axes, best, baseline["mean"], result["steps"])
    axes.set_xlabel("step")
    axes.set_title(f"GPT with 0.8 M parameters, {data}")
    style_axes(axes, "validation loss (nats/character)")
    label_ends(axes)


def _line(axes: Axes, standing: Mapping[str, Any], line: Mapping[str, Any], thick: bool) -> None:
    curve, color = standing["curve"], line["color"]
    axes.plot(
        curve["step"],
        curve["mean"],
        color=color,
        linestyle=line["linestyle"],
        label=standing["name"],
        linewidth=1.3 * LINE if thick else 0.6 * LINE,
        alpha=1 if thick else 0.7,
        zorder=3 if thick else 2,
    )
    if thick:
        axes.fill_between(curve["step"], curve["min"], curve["max"], color=color, alpha=0.2, linewidth=0)


def _crossings(axes: Axes, best: Sequence[Mapping[str, Any]], loss: float, steps: int) -> None:
    """A line at the baseline's final loss, and a dot where each of the best reaches it."""
    reached = [standing["steps"] for standing in best if standing["steps"]]
    if reached:
        axes.plot([min(reached), steps], [loss, loss], color=MUTED, linewidth=1, linestyle=":", zorder=1)
        axes.plot(reached, [loss] * len(reached), "o", color=INK, markersize=5, zorder=4)


def finding(best: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any] | None, steps: int) -> str:
    """What the picture shows, in numbers of the comparison."""
    spell = lambda standing: str(SPELLED.get(standing["name"], standing["name"]))
    fast = [standing for standing in best if standing["steps"]]
    if baseline is None or not fast:
        return f"{' and '.join(map(spell, best))} have the lowest loss" if len(best) > 1 else "Validation loss"
    shares = " and ".join(f"{100 * standing['steps'] / steps:.0f} %" for standing in fast)
    reach = "reach" if len(fast) > 1 else "reaches"
    return f"{' and '.join(map(spell, fast))} {reach} {spell(baseline)}'s\nfinal loss in {shares} of its steps"


def example(figure: Figure, quick: bool) -> None:
    """Losses of the comparison in the guide, as ``compare`` draws them."""
    result = json.loads(FILE.read_text(encoding="utf-8"))["compare, example"]
    curves = {row["name"]: row["curve"] for row in result["standings"]}
    rows = {name: np.array([curve["min"], curve["mean"], curve["max"]]) for name, curve in curves.items()}
    steps = {name: np.array(curve["step"], float) for name, curve in curves.items()}
    draw = lambda axes, name, line: draw_band(axes, steps[name], rows[name], line)
    y = np.concatenate([values.ravel() for values in rows.values()]).tolist()
    plots = line_plots(figure, line_styles({name: name for name in curves}), draw, result["first"], y=y)
    finish(figure, plots, "step", LOSS_LABEL, f"mean and range of {len(result['standings'][0]['losses'])} seeds")


def tried(figure: Figure, quick: bool) -> None:
    """Loss over the learning rate of the sweep that found the default rates."""
    recorded = json.loads(RATES_FILE.read_text(encoding="utf-8"))[f"rates, {RATES_STEPS} steps"]["losses"]
    means = {name: {float(rate): loss for rate, loss in sorted(recorded[name].items(), key=_rate)} for name in TRIED}
    draw = lambda axes, name, line: draw_rates(axes, means[name], set(), {**line, "markersize": 6})
    plots = line_plots(figure, line_styles({name: name for name in TRIED}), draw, None, log="x")
    finish(figure, plots, "peak learning rate", LOSS_LABEL, f"{RATES_STEPS} steps, one run per point")


def _rate(item: tuple[str, float]) -> float:
    return float(item[0])


def finals(part: str, figure: Figure, quick: bool) -> None:
    """Final losses of a part, with their 95 % intervals."""
    found = {row["name"]: (list(row["losses"].values()), row["broken"]) for row in result_of(part)["standings"]}
    rows = [(name, losses, t_interval(losses), len(diverged)) for name, (losses, diverged) in found.items()]
    interval_plot(figure, rows, line_styles({name: name for name in found}))
