"""Figures of a comparison; candidates differ in dash and marker too, for grayscale and color-blind readers."""

from __future__ import annotations

import re
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minigpt_flax.compare.statistics import CandidateResult, CandidateRuns, Summary
from minigpt_flax.runs.plots import fonts_for, plain, save
from minigpt_flax.runs.records import RunRecord
from minigpt_flax.runs.schema import CLOCK, LR, SECONDS, STEP, TOKENS, UPDATE_RATIO, VAL_LOSS
from minigpt_flax.runs.style import legend, look, looks, style_axes, style_axis

WIDEST = 32  # characters of a label's line


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Label of each candidate: without arguments and without words that all share, if the labels still differ.

    Args:
      names: of all candidates, such as ``adamw(b2=0.99) wsd lr 0.003``.
    """
    words = [re.sub(r"\([^()]*\)", "", name).replace("lr ", "lr\xa0").split(" ") for name in names]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    labels = [" ".join(w for i, w in enumerate(parts) if not i or w not in common) for parts in words]
    if len(set(labels)) < len(set(names)):
        labels = list(names)
    wrapped = ["\n".join(textwrap.wrap(plain(label), WIDEST)) for label in labels]
    return dict(zip(names, wrapped, strict=True))


def save_figures(candidates: Sequence[CandidateRuns], summary: Summary, folder: Path) -> list[str]:
    """Draws every figure that the runs have data for.

    Args:
      candidates: the candidates compared.
      summary: their summary.
      folder: where to write the figures.

    Returns:
      Names of the files written.
    """
    by_name = {result.name: result for result in summary.results}
    results = [by_name[candidate.name] for candidate in candidates]  # the same order, so the same color, in each figure
    figures: dict[str, Callable[[], Figure | None]] = {
        "loss.png": lambda: losses(results),
        "rates.png": lambda: rates(candidates),
        "target.png": lambda: target(results, summary),
        "schedules.png": lambda: schedules(results),
        "ratios.png": lambda: ratios(results),
    }
    names = []
    with fonts_for(*(candidate.name for candidate in candidates)):
        for name, draw in figures.items():
            figure = draw()
            if figure is not None:
                save(figure, folder / name)
                names.append(name)
    return names


def losses(results: Sequence[CandidateResult]) -> Figure:
    """Validation loss over steps, tokens and seconds: the mean over seeds, in a band from minimum to maximum."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    labels = short_names([result.name for result in results])
    styles = looks([result.name for result in results])
    for axes, x in zip(figure.subplots(1, len(CLOCK), sharey=True), CLOCK, strict=True):
        for result, line in zip(results, styles, strict=True):
            _band(axes, result, x, labels[result.name], line)
        style_axes(axes, "validation loss (nats/token)" if x == STEP else "")
        axes.set_xlabel({STEP: "steps", SECONDS: "seconds of training"}.get(x, x))
    legend(figure)
    return figure


def _band(axes: Axes, result: CandidateResult, x: str, label: str, line: Mapping[str, Any]) -> None:
    runs = [run for run in result.runs.values() if run.validations]
    if not runs:
        return
    length = min(len(run.validations) for run in runs)
    values = np.array([[record[VAL_LOSS] for record in run.validations[:length]] for run in runs])
    positions = np.mean([_positions(run, result, x)[:length] for run in runs], axis=0)
    axes.plot(positions, values.mean(0), **line, markersize=4, label=label)
    axes.fill_between(positions, values.min(0), values.max(0), color=line["color"], alpha=0.2, linewidth=0)


def _positions(run: RunRecord, result: CandidateResult, x: str) -> list[float]:
    """Positions of the validations on the x axis; seconds exclude validation and compilation."""
    per_step = {STEP: 1.0, TOKENS: float(run.tokens_per_step), SECONDS: (result.ms_per_step or 0.0) / 1000}[x]
    return [per_step * record[STEP] for record in run.validations]


def rates(candidates: Sequence[CandidateRuns]) -> Figure | None:
    """Final loss over the learning rate, one curve per candidate and run length; None if all have a single rate.

    The shorter runs of a search are drawn thin.
    """
    if all(len({run.config["lr"] for run in candidate.runs}) < 2 for candidate in candidates):
        return None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    full = max(run.config["steps"] for candidate in candidates for run in candidate.runs)
    names = [candidate.name for candidate in candidates]
    labels = short_names(names)
    for candidate, line in zip(candidates, looks(names), strict=True):
        for steps in sorted({run.config["steps"] for run in candidate.runs}):
            _rate_curve(axes, candidate, steps, full, labels[candidate.name], line)
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate")
    axes.set_title(f"thick: {full:,} steps; thin: shorter runs of the search")
    style_axes(axes, "final validation loss (nats/token)")
    legend(figure)
    return figure


def with_common_seeds(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs whose seed every learning rate has; otherwise means would differ by their seeds."""
    seeds: dict[float, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.config["lr"], set()).add(run.config["seed"])
    common = set.intersection(*seeds.values())
    return [run for run in runs if run.config["seed"] in common]


def _rate_curve(
    axes: Axes, candidate: CandidateRuns, steps: int, full: int, label: str, line: Mapping[str, Any]
) -> None:
    points: dict[float, list[float]] = {}
    diverged: set[float] = set()
    for run in with_common_seeds([run for run in candidate.runs if run.config["steps"] == steps]):
        if run.state == "finished" and run.final:
            points.setdefault(run.config["lr"], []).append(run.final[VAL_LOSS])
        elif run.state == "diverged":
            diverged.add(run.config["lr"])
    is_full = steps == full
    means = {rate: statistics.fmean(values) for rate, values in sorted(points.items())}
    size: dict[str, Any] = (
        {"markersize": 7, "linewidth": 2} if is_full else {"markersize": 3, "linewidth": 1, "alpha": 0.7}
    )
    axes.plot(list(means), list(means.values()), **line, **size, label=label if is_full else None)
    if diverged:  # crosses at the top edge
        height = [0.98] * len(diverged)
        axes.plot(sorted(diverged), height, "x", color=line["color"], transform=axes.get_xaxis_transform())


def target(results: Sequence[CandidateResult], summary: Summary) -> Figure | None:
    """Steps to the target, fewest at the top; None if no candidate reached it."""
    reached = sorted(((r.steps, i, r) for i, r in enumerate(results) if r.steps is not None), reverse=True)
    if not reached:
        return None
    names = [result.name for result in results]
    labels, styles = short_names(names), looks(names)
    lines = sum(labels[name].count("\n") + 1 for name in names)
    figure = Figure(figsize=(7, 1.4 + 0.35 * max(len(results), lines)), layout="constrained")
    axes = figure.subplots()
    not_reached = [(None, i, r) for i, r in enumerate(results) if r.steps is None]
    for steps, i, r in [*not_reached, *reached]:
        bar = axes.barh(labels[r.name], steps or 0, color=styles[i]["color"], height=0.6)
        axes.bar_label(bar, ["not reached" if steps is None else f"{steps:,.0f}"], padding=4)
    axes.margins(x=0.12)
    baseline = labels.get(summary.baseline, plain(summary.baseline))
    goal = f"a loss of {summary.target:g}" if summary.target is not None else f"the final loss of {baseline}"
    axes.set_xlabel(f"steps to {goal}")
    axes.grid(axis="x")
    style_axis(axes.xaxis)
    return figure


def schedules(results: Sequence[CandidateResult]) -> Figure | None:
    """Learning rate over steps, from each candidate's first run; None if no run recorded it."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    names = [result.name for result in results]
    labels = short_names(names)
    for result, line in zip(results, looks(names), strict=True):
        for run in list(result.runs.values())[:1]:
            points = [(record[STEP], record[LR]) for record in run.training if record.get(LR)]
            axes.plot(
                *zip(*points, strict=True), **{**line, "marker": ""}, label=labels[result.name]
            ) if points else None
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.set_xlabel("step")
    style_axes(axes, "learning rate")
    legend(figure)
    return figure


def ratios(results: Sequence[CandidateResult]) -> Figure | None:
    """Update-to-parameter ratios over steps, by layer or role, from each candidate's first run.

    None if no run used the probe ``ratios`` or ``layers``.
    """
    probed = [r for r in results if r.runs and _update_ratios(next(iter(r.runs.values())))]
    if not probed:
        return None
    figure = Figure(figsize=(max(6.5, min(4.5 * len(probed), 13)), 4.8), layout="constrained")
    labels = short_names([result.name for result in probed])
    for axes, result in zip(np.atleast_1d(figure.subplots(1, len(probed), sharey=True)), probed, strict=True):
        for i, (name, points) in enumerate(_update_ratios(next(iter(result.runs.values()))).items()):
            axes.plot(*zip(*points, strict=True), **look(i, marker="", linewidth=1.2), label=plain(name))
        axes.set_yscale("log")
        axes.set_title(labels[result.name])
        axes.set_xlabel("step")
        style_axes(axes, "RMS of update / RMS of parameters" if result is probed[0] else "")
    legend(figure)
    return figure


def _update_ratios(run: RunRecord) -> Mapping[str, list[tuple[int, float]]]:
    """(step, ratio) by layer or role, without the values that a logarithmic axis can't show: zero and non-finite."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in run.training:
        for name, value in record.items():
            if name.startswith(UPDATE_RATIO) and value:
                points.setdefault(name.removeprefix(UPDATE_RATIO), []).append((record[STEP], value))
    return points
