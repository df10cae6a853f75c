"""Figures of a comparison; candidates differ in dash and marker too, for grayscale and color-blind readers.

Up to six candidates share one plot, with labels at the ends of their lines; more have a plot each, with the baseline in
gray.
"""

from __future__ import annotations

import functools
import re
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from minigpt_flax.compare.results import FIGURES
from minigpt_flax.compare.statistics import CandidateResult, CandidateRuns, Summary
from minigpt_flax.runs.plots import fonts_for, plain, save
from minigpt_flax.runs.records import RunRecord
from minigpt_flax.runs.schema import LR, STEP, UPDATE_RATIO, VAL_LOSS
from minigpt_flax.runs.style import (
    FONT,
    LINE,
    MUTED,
    blend,
    label_ends,
    line_styles,
    look,
    power,
    style_axes,
    style_axis,
)
from minigpt_flax.text import width

WIDEST, TITLE = 26, 17  # characters of a line: of a label, and of the title of a small plot
WIDTH, HEIGHT = 6.0, 3.8  # inches; text is 6.6 points high where a figure is shrunk to a column of 3.3 inches
TOGETHER = 6  # largest number of lines in one plot
COLUMNS = 3  # plots in a row
LABELS = 8  # largest number of labels of layers
LOSS_LABEL = "validation loss (nats/token)"

FIELD = re.compile(r"(\w+) (?=[-+.\d])")  # the name of a field before its number

Line = Mapping[str, Any]  # keyword arguments of Axes.plot
Draw = Callable[[Axes, str, Line], None]  # draws the candidate of a name


def short_names(names: Sequence[str], widest: int = WIDEST) -> dict[str, str]:
    """Label of each candidate: without arguments and without words that all share, if the labels still differ.

    Args:
      names: of all candidates, such as ``adamw(b2=0.99) wsd lr 0.003``.
      widest: characters of a line.
    """
    words = [FIELD.sub("\\1\xa0", re.sub(r"\([^()]*\)", "", name)).split(" ") for name in names]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    labels = [" ".join(w for i, w in enumerate(parts) if not i or w not in common) for parts in words]
    if len(set(labels)) < len(set(names)):
        labels = list(names)
    return {name: _wrapped(plain(label), widest) for name, label in zip(names, labels, strict=True)}


def _wrapped(label: str, widest: int) -> str:
    """Breaks a label into lines; the characters of some scripts are twice as wide."""
    return "\n".join(textwrap.wrap(label, max(1, widest * len(label) // max(1, width(label)))))


def save_figures(
    candidates: Sequence[CandidateRuns], summary: Summary, folder: Path, formats: Sequence[str] = ("png",)
) -> list[str]:
    """Draws every figure that the runs have data for.

    Args:
      candidates: the candidates compared.
      summary: their summary.
      folder: where to write the figures.
      formats: of the files, such as ``svg``.

    Returns:
      Names of the files written.
    """
    by_name = {result.name: result for result in summary.results}
    results = [by_name[candidate.name] for candidate in candidates]  # the same order in each figure
    draws: Sequence[Callable[[], Figure | None]] = (
        lambda: losses(results, summary.baseline),
        lambda: times(results, summary.baseline),
        lambda: finals(results),
        lambda: rates(candidates, summary.baseline),
        lambda: target(results, summary),
        lambda: schedules(results, summary.baseline),
        lambda: ratios(results),
    )
    names = []
    with fonts_for(*(candidate.name for candidate in candidates)):
        for name, draw in zip(FIGURES, draws, strict=True):
            if (figure := draw()) is not None:
                for form in formats:
                    save(figure, folder / f"{name}.{form}")
                    names.append(f"{name}.{form}")
    return names


def line_plots(
    figure: Figure, styles: Mapping[str, Line], draw: Draw, baseline: str | None, log: str = "", y: Sequence[float] = ()
) -> list[Axes]:
    """Draws candidates into one plot, or into a plot each if they are many; :func:`finish` labels the axes.

    Args:
      figure: empty; its size is set.
      styles: line style of each candidate, by name.
      draw: draws one of them.
      baseline: drawn in gray into every plot if each candidate has its own; None takes the first.
      log: names of logarithmic axes: ``x``, ``y`` or both.
      y: values that the y axis shows; others may be outside of it. Empty shows all that is drawn.
    """
    names = list(styles)
    rows = -(-len(names) // COLUMNS)
    if len(names) <= TOGETHER:
        figure.set_size_inches(WIDTH, HEIGHT)
        plots = [figure.subplots()]
    else:
        figure.set_size_inches(WIDTH, 0.6 + 1.45 * rows)
        plots = list(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).flat)
    for axes in plots:
        axes.set(**{f"{axis}scale": "log" for axis in log})
        if len(y):
            margin = 0.04 * (max(y) - min(y)) or 0.1
            axes.set_ylim(min(y) - margin, max(y) + margin)
    if len(names) <= TOGETHER:
        labels = short_names(names)
        for name in names:
            draw(plots[0], name, {**styles[name], "label": labels[name]})
        return plots
    labels, gray = short_names(names, TITLE), next((name for name in names if name == baseline), names[0])
    for axes, name in zip(plots, names, strict=False):
        if name != gray:
            draw(axes, gray, {"color": MUTED, "linestyle": "-", "marker": "", "linewidth": 1, "zorder": 1})
        draw(axes, name, styles[name])
        axes.set_title(labels[name], fontsize=FONT - 1, color=blend(styles[name]["color"]))
    for axes in plots[len(names) :]:
        axes.remove()
    figure.suptitle(f"gray: {labels[gray]}".replace("\n", " "))
    return plots[: len(names)]


def finish(figure: Figure, plots: Sequence[Axes], x: str, y: str, about: str = "") -> None:
    """Labels the axes, and the lines of a single plot at their ends.

    Args:
      figure: of the plots.
      plots: of :func:`line_plots`.
      x: label.
      y: label.
      about: what the lines are.
    """
    for axes in plots:
        style_axes(axes, "", ticks=5 if len(plots) == 1 else 3)
        if len(plots) > 1:
            axes.tick_params(labelsize=FONT - 2, labelbottom=plots.index(axes) + COLUMNS >= len(plots))
            for axis in (axes.xaxis, axes.yaxis):
                _few_ticks(axis)
    if len(plots) == 1:
        plots[0].set(xlabel=x, ylabel=y)
        plots[0].set_title(about, fontsize=FONT - 1, color=blend(MUTED))
        label_ends(plots[0])
    else:
        figure.supxlabel(x, fontsize=FONT)
        figure.supylabel(y, fontsize=FONT)
        about = "; ".join(filter(None, (about, figure.get_suptitle())))
        figure.suptitle(about, x=0.01, ha="left", fontsize=FONT - 1, fontweight="normal", color=blend(MUTED))


def _few_ticks(axis: Axis) -> None:
    """Two or three labels on a logarithmic axis of a small plot."""
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0,) if high >= 100 * low else (1.0, 3.0), numticks=3))
        axis.set_major_formatter(FuncFormatter(lambda x, _: power(x)))
        axis.set_minor_locator(NullLocator())


def _styles(results: Sequence[CandidateResult]) -> dict[str, dict[str, Any]]:
    return line_styles({result.name: result.spec for result in results})


def losses(results: Sequence[CandidateResult], baseline: str | None = None) -> Figure:
    """Validation loss over steps: the mean of the finished seeds, in a band from minimum to maximum.

    Over tokens, if candidates differ in the tokens of a step.

    Runs that diverged or aren't finished are thin lines; a cross ends a diverged one.
    """
    sizes = {result.length[1] for result in results if result.length}
    if len(sizes) > 1:
        return _curves(results, baseline, _tokens, "tokens")
    tokens = "".join(f" ({size:,} tokens each)" for size in sizes)
    return _curves(results, baseline, lambda result, step: step, f"step{tokens}")


def _tokens(result: CandidateResult, step: int | float) -> float:
    return float(next(iter(result.runs.values())).tokens_after(step))


def times(results: Sequence[CandidateResult], baseline: str | None = None) -> Figure | None:
    """Validation loss over training time, as :func:`losses`; None unless every candidate has a range of times.

    Steps take the mean of the fastest and the slowest run; a bar at the end spans both.
    """
    if any(result.ms_range is None for result in results):
        return None
    seconds = lambda result, step: statistics.fmean(result.ms_range or ()) / 1000 * step
    return _curves(results, baseline, seconds, "training time (s)", timed=True)


def _curves(
    results: Sequence[CandidateResult],
    baseline: str | None,
    place: Callable[[CandidateResult, float], float],
    x: str,
    timed: bool = False,
) -> Figure:
    """Validation losses over ``place`` of each step."""
    figure = Figure(layout="constrained")
    by_name = {result.name: result for result in results}
    plots = line_plots(
        figure,
        _styles(results),
        lambda axes, name, line: _loss_curve(axes, by_name[name], functools.partial(place, by_name[name]), line, timed),
        baseline,
        y=[value for result in results for value in mean_curve(list(result.runs.values()))[1].ravel()],
    )
    seeds = max((len(result.runs) for result in results), default=0)
    about = f"mean and range of {seeds} seeds" if seeds > 1 else ""
    bars = "bars: times of all runs" if timed else ""
    diverged = "\u00d7: diverged" if any(result.diverged_seeds for result in results) else ""
    finish(figure, plots, x, LOSS_LABEL, "; ".join(filter(None, (about, bars, diverged))))
    return figure


def mean_curve(runs: Sequence[RunRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [n], and minimum, mean and maximum over the finished runs [3, n], at the validations that all have."""
    curves = [{r[STEP]: r[VAL_LOSS] for r in run.validations} for run in runs if run.state == "finished"]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves]).reshape(len(curves), len(steps))
    stacked = [values.min(0), values.mean(0), values.max(0)] if curves else np.zeros((3, 0))
    return np.array(steps, float), np.array(stacked)


def _loss_curve(axes: Axes, result: CandidateResult, place: Callable[[float], float], line: Line, timed: bool) -> None:
    runs = list(result.runs.values())
    steps, values = mean_curve(runs)
    draw_band(axes, np.array([place(step) for step in steps], float), values, line)
    mean = values[1]
    if timed and len(steps):
        error = 0.5 * (result.ms_range[1] - result.ms_range[0]) / 1000 * steps[-1] if result.ms_range else 0.0
        axes.errorbar(place(steps[-1]), mean[-1], xerr=error, color=line["color"], capsize=3, linewidth=1)
    for run in (run for run in runs if run.state != "finished" and run.validations):
        x, y = zip(*((place(r[STEP]), r[VAL_LOSS]) for r in run.validations), strict=True)
        label = line.get("label", "_") if not len(steps) and run is runs[0] else "_"
        axes.plot(x, y, **{**line, "marker": "", "linewidth": 0.5 * LINE, "label": label})
        if run.state == "diverged":
            end = min(y[-1], axes.get_ylim()[1])
            axes.plot(x[-1], end, "x", color=line["color"], markersize=8, markeredgewidth=2, clip_on=False)


def draw_band(axes: Axes, x: np.ndarray, values: np.ndarray, line: Line) -> None:
    """A line with markers for the mean, and a band from minimum to maximum.

    Args:
      axes: where.
      x: of the points, [n].
      values: minimum, mean and maximum, [3, n].
      line: its style.
    """
    if not len(x):
        return
    low, mean, high = values
    whole = {"clip_on": False}  # the last marker lies on the border
    axes.plot(x, mean, **{"markersize": 5, "markevery": max(1, len(x) // 8), **line, **whole})
    axes.fill_between(x, low, high, color=line["color"], alpha=0.2, linewidth=0)


def finals(results: Sequence[CandidateResult]) -> Figure | None:
    """Final loss of every seed, and the mean with its 95 % interval; None without finished runs."""
    shown = [result for result in sorted(results, key=lambda r: (r.mean is None, r.mean)) if result.losses]
    if not shown:
        return None
    rows = [
        (result.name, list(result.losses.values()), result.interval, len(result.diverged_seeds)) for result in shown
    ]
    figure = Figure(layout="constrained")
    interval_plot(figure, rows, _styles(results))
    return figure


def interval_plot(
    figure: Figure,
    rows: Sequence[tuple[str, Sequence[float], tuple[float, float] | None, int]],
    styles: Mapping[str, Line],
) -> None:
    """One row per candidate: a small marker for every seed, a large one for the mean, a bar for its interval.

    Args:
      figure: empty.
      rows: name, losses, 95 % interval of the mean, and number of diverged seeds of each, the first at the top.
      styles: line style of each name.
    """
    labels = short_names([name for name, *_ in rows])
    figure.set_size_inches(WIDTH, 1.1 + 0.25 * sum(label.count("\n") + 1.2 for label in labels.values()))
    axes = figure.subplots()
    for y, (name, values, interval, diverged) in enumerate(rows):
        line, mean = styles[name], statistics.fmean(values)
        axes.plot(values, [y] * len(values), line["marker"], color=line["color"], markersize=4, alpha=0.5)
        if interval is not None:
            axes.plot(interval, [y, y], color=line["color"], linewidth=LINE)
        axes.plot(mean, y, line["marker"], color=line["color"], markersize=8, markeredgecolor="white")
        note = f"{mean:.4f}" + f", {diverged} diverged" * bool(diverged)
        right = max([*values, *(interval or ())])
        axes.annotate(note, (right, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=FONT - 2)
    axes.set_yticks(range(len(rows)), [labels[name] for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.3 if any(diverged for *_, diverged in rows) else 0.12)
    axes.set_xlabel("final " + LOSS_LABEL)
    axes.set_title("seeds, mean and 95 % interval", fontsize=FONT - 1, color=blend(MUTED))
    axes.grid(axis="x")
    style_axis(axes.xaxis)


def rates(candidates: Sequence[CandidateRuns], baseline: str | None = None) -> Figure | None:
    """Final loss over the learning rate, one curve per candidate and run length; None if all have a single rate.

    The shorter runs of a search are drawn thin.
    """
    if all(len({run.config["lr"] for run in candidate.runs}) < 2 for candidate in candidates):
        return None
    by_name = {candidate.name: candidate for candidate in candidates}
    lengths = sorted({run.config["steps"] for candidate in candidates for run in candidate.runs})
    figure = Figure(layout="constrained")

    def draw(axes: Axes, name: str, line: Line) -> None:
        curves = {steps: rate_points(by_name[name], steps) for steps in lengths}
        longest = max(lengths, key=lambda steps: (len(curves[steps][0]), steps))
        for steps, (means, diverged) in curves.items():
            thin = {} if steps == lengths[-1] else {"markersize": 3, "linewidth": 1, "alpha": 0.7}
            draw_rates(axes, means, diverged, {**line, "markersize": 7, **thin}, steps == longest)

    specs = {each.name: next((run.config["opt"] for run in each.runs), "") for each in candidates}
    plots = line_plots(figure, line_styles(specs), draw, baseline, log="x")
    shorter = f"; thin: {', '.join(f'{steps:,}' for steps in lengths[:-1])}" if len(lengths) > 1 else ""
    finish(figure, plots, "peak learning rate", "final " + LOSS_LABEL, f"{lengths[-1]:,} steps{shorter}")
    return figure


def with_common_seeds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose seed every learning rate has; otherwise means would differ by their seeds."""
    seeds: dict[float, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.config["lr"], set()).add(run.config["seed"])
    common = set.intersection(*seeds.values())
    return [run for run in runs if run.config["seed"] in common]


def rate_points(candidate: CandidateRuns, steps: int) -> tuple[dict[float, float], set[float]]:
    """Mean final loss of the runs of a length by learning rate, over common seeds; and the rates that diverged."""
    points: dict[float, list[float]] = {}
    diverged: set[float] = set()
    runs = [run for run in candidate.runs if run.config["steps"] == steps]
    for run in with_common_seeds(runs) if runs else []:
        if run.state == "finished" and run.final:
            points.setdefault(run.config["lr"], []).append(run.final[VAL_LOSS])
        elif run.state == "diverged":
            diverged.add(run.config["lr"])
    return {rate: statistics.fmean(values) for rate, values in sorted(points.items())}, diverged


def draw_rates(axes: Axes, means: Mapping[float, float], diverged: set[float], line: Line, named: bool = True) -> None:
    """A curve over the learning rate, with crosses at the top edge for rates that diverged."""
    label = line.get("label", "_") if named else "_"
    axes.plot(list(means), list(means.values()), **{**line, "label": label, "clip_on": False})
    if diverged:
        height = [0.98] * len(diverged)
        axes.plot(sorted(diverged), height, "x", color=line["color"], transform=axes.get_xaxis_transform())


def target(results: Sequence[CandidateResult], summary: Summary) -> Figure | None:
    """Steps to the target, fewest at the top; None if no candidate reached it."""
    reached = sorted(((r.steps, i, r) for i, r in enumerate(results) if r.steps is not None), reverse=True)
    if not reached:
        return None
    names = [result.name for result in results]
    labels, styles = short_names(names), list(_styles(results).values())
    lines = sum(labels[name].count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * max(len(results), lines)), layout="constrained")
    axes = figure.subplots()
    not_reached = [(None, i, r) for i, r in enumerate(results) if r.steps is None]
    for steps, i, r in [*reversed(not_reached), *reached]:
        bar = axes.barh(labels[r.name], steps or 0, color=styles[i]["color"], height=0.6)
        axes.bar_label(bar, ["not reached" if steps is None else f"{steps:,.0f}"], padding=4)
    axes.margins(x=0.12)
    baseline = labels.get(summary.baseline, plain(summary.baseline)).replace("\n", " ")
    goal = f"a loss of {summary.target:g}" if summary.target is not None else f"the final loss of {baseline}"
    axes.set_xlabel(textwrap.fill(f"steps to {goal}", 2 * WIDEST))
    axes.grid(axis="x")
    style_axis(axes.xaxis)
    return figure


def schedules(results: Sequence[CandidateResult], baseline: str | None = None) -> Figure | None:
    """Learning rate over steps, from each candidate's first run; None if no run recorded it.

    Candidates with the same learning rates share a line.
    """
    equal: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for result in results:
        for run in list(result.runs.values())[:1]:
            if points := tuple((record[STEP], record[LR]) for record in run.training if record.get(LR)):
                equal.setdefault(points, []).append(result.name)
    if not equal:
        return None
    curves = {names[0]: points for points, names in equal.items()}
    labels = short_names([result.name for result in results])
    shared = {names[0]: "\n".join(labels[name] for name in names) for names in equal.values()}
    figure = Figure(layout="constrained")

    def draw(axes: Axes, name: str, line: Line) -> None:
        label = {"label": shared[name]} if "label" in line else {}
        thick = (
            {} if "linewidth" in line else {"linewidth": 1.25 * LINE - 0.25 * len(axes.lines)}
        )  # where one hides another
        axes.plot(*zip(*curves[name], strict=True), **{**line, "marker": "", **label, **thick})

    styles = _styles(results)
    plots = line_plots(figure, {name: styles[name] for name in curves}, draw, baseline, log="y")
    finish(figure, plots, "step", "learning rate")
    return figure


def ratios(results: Sequence[CandidateResult]) -> Figure | None:
    """Update-to-parameter ratios over steps, by layer or role, from each candidate's first run.

    None if no run used the probe ``ratios`` or ``layers``.
    """
    probed = [r for r in results if r.runs and _update_ratios(next(iter(r.runs.values())))]
    if not probed:
        return None
    rows, columns = -(-len(probed) // COLUMNS), min(COLUMNS, len(probed))
    figure = Figure(figsize=(WIDTH, 0.9 + 2.4 * rows), layout="constrained")
    labels = short_names([result.name for result in probed], TITLE)
    plots = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, result in zip(plots, probed, strict=False):
        found = _update_ratios(next(iter(result.runs.values())))
        every = -(-len(found) // LABELS)
        for i, (name, points) in enumerate(found.items()):
            label = plain(name) if i % every == 0 else "_"
            axes.plot(*zip(*points, strict=True), **look(i, marker="", linewidth=1.2), label=label)
        axes.set_yscale("log")
        axes.set_title(labels[result.name], fontsize=FONT - 1)
        style_axes(axes, "", ticks=3)
    for axes in plots[len(probed) :]:
        axes.remove()
    figure.supxlabel("step", fontsize=FONT)
    figure.supylabel("RMS of update / RMS of parameters", fontsize=FONT)
    label_ends(plots[columns - 1], FONT - 2.0)  # the layers have the same lines in each plot
    return figure


def _update_ratios(run: RunRecord) -> Mapping[str, list[tuple[int, float]]]:
    """(step, ratio) by layer or role, without the values that a logarithmic axis can't show: zero and non-finite."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in run.training:
        for name, value in record.items():
            if name.startswith(UPDATE_RATIO) and value:
                points.setdefault(name.removeprefix(UPDATE_RATIO), []).append((record[STEP], value))
    return points
