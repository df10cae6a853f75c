"""Pictures of a comparison. They read in grey and for the colour-blind: contestants differ in dash and marker too."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from minigpt_flax.compare.statistics import Entry, Standing, Verdict
from minigpt_flax.runs.plots import COLOURS, DASHES, MARKERS, dress, fonts_for, plain, save
from minigpt_flax.runs.records import RunRecord

HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")
RATIO = "update_ratio/"  # names of the probes' ratios begin so
AXES = ("step", "tokens", "seconds")


def style(index: int, **more: Any) -> dict[str, Any]:
    """Colour, dash and marker of the index-th contestant, and whatever else."""
    pick = lambda table: table[index % len(table)]
    return {"color": pick(COLOURS), "linestyle": pick(DASHES), "marker": pick(MARKERS)} | more


def pictures(entries: Sequence[Entry], verdict: Verdict, folder: Path) -> list[str]:
    """Draws everything that the runs have the numbers for.

    Args:
      entries: what was compared.
      verdict: what it came to.
      folder: takes the pictures.

    Returns:
      Names of the files.
    """
    by_name = {s.name: s for s in verdict.standings}
    ordered = [by_name[entry.name] for entry in entries]  # a contestant keeps its colour from picture to picture
    drawn: dict[str, Callable[[], Figure | None]] = {
        "loss.png": lambda: losses(ordered),
        "rates.png": lambda: rates(entries),
        "target.png": lambda: target(ordered, verdict),
        "schedules.png": lambda: schedules(ordered),
        "ratios.png": lambda: ratios(ordered),
    }
    names = []
    with fonts_for(*(entry.name for entry in entries)):
        for name, draw in drawn.items():
            figure = draw()
            if figure is not None:
                save(figure, folder / name)
                names.append(name)
    return names


def losses(standings: Sequence[Standing]) -> Figure:
    """Validation loss against steps, tokens and seconds: mean over seeds, and from the lowest to the highest."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    for axes, x in zip(figure.subplots(1, len(AXES), sharey=True), AXES, strict=True):
        for i, standing in enumerate(standings):
            _band(axes, standing, x, i)
        dress(axes, "validation loss (nats/token)" if x == AXES[0] else "")
        axes.set_xlabel({"step": "steps", "seconds": "seconds of training"}.get(x, x))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k, which leaves room for the next
    _legend(figure)
    return figure


def _band(axes: Axes, standing: Standing, x: str, index: int) -> None:
    runs = [run for run in standing.runs.values() if run.validations]
    if not runs:
        return
    length = min(len(run.validations) for run in runs)
    values = np.array([[record["val_loss"] for record in run.validations[:length]] for run in runs])
    places = np.mean([_places(run, standing, x)[:length] for run in runs], axis=0)
    how = style(index)
    axes.plot(places, values.mean(0), **how, markersize=4, label=plain(standing.name))
    axes.fill_between(places, values.min(0), values.max(0), color=how["color"], alpha=0.2, linewidth=0)


def _places(run: RunRecord, standing: Standing, x: str) -> list[float]:
    """Where the validations lie; in seconds of training alone, as validating and compiling are nobody's merit."""
    pace = {"step": 1.0, "tokens": float(run.tokens_per_step), "seconds": (standing.ms_per_step or 0.0) / 1000}[x]
    return [pace * record["step"] for record in run.validations]


def rates(entries: Sequence[Entry]) -> Figure | None:
    """Final loss over the learning rate, a curve a contestant and length of run; short runs, of a search, are thin."""
    if all(len(set(_rates(entry))) < 2 for entry in entries):
        return None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    full = max(run.config["steps"] for entry in entries for run in entry.runs)
    for i, entry in enumerate(entries):
        for steps in sorted({run.config["steps"] for run in entry.runs}):
            _sensitivity(axes, entry, steps, full, i)
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate")
    axes.set_title(f"large: {full:,} steps; small: the search's shorter runs", fontsize="medium")
    dress(axes, "final validation loss (nats/token)")
    _legend(figure)
    return figure


def comparable(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs with the seeds that every rate has: the mean over others would compare seeds."""
    seeds: dict[float, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.config["lr"], set()).add(run.config["seed"])
    common = set.intersection(*seeds.values())
    return [run for run in runs if run.config["seed"] in common]


def _rates(entry: Entry) -> list[float]:
    return [run.config["lr"] for run in entry.runs]


def _sensitivity(axes: Axes, entry: Entry, steps: int, full: int, index: int) -> None:
    points: dict[float, list[float]] = {}
    broken: set[float] = set()
    for run in comparable([run for run in entry.runs if run.config["steps"] == steps]):
        if run.state == "finished" and run.final:
            points.setdefault(run.config["lr"], []).append(run.final["val_loss"])
        elif run.state == "diverged":
            broken.add(run.config["lr"])
    whole, how = steps == full, style(index)
    means = {rate: statistics.fmean(values) for rate, values in sorted(points.items())}
    how |= {"markersize": 7, "linewidth": 2} if whole else {"markersize": 3, "linewidth": 1, "alpha": 0.7}
    axes.plot(list(means), list(means.values()), **how, label=plain(entry.name) if whole else None)
    if broken:  # at the top of the picture, where their loss would be
        axes.plot(sorted(broken), [0.98] * len(broken), "x", color=how["color"], transform=axes.get_xaxis_transform())


def target(standings: Sequence[Standing], verdict: Verdict) -> Figure | None:
    """Steps to the target, the fewest first."""
    reached = sorted(((s.steps, i, s) for i, s in enumerate(standings) if s.steps is not None), reverse=True)
    if not reached:
        return None
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(standings)), layout="constrained")
    axes = figure.subplots()
    never = [(i, s) for i, s in enumerate(standings) if s.steps is None]
    for steps, i, s in [*((None, i, s) for i, s in never), *reached]:
        bar = axes.barh(
            plain(s.name), steps or 0, color=style(i)["color"], hatch=HATCHES[i % len(HATCHES)], edgecolor="white"
        )
        axes.bar_label(bar, ["not reached" if steps is None else f"{steps:.0f}"], padding=4)
    axes.margins(x=0.12)
    goal = f"loss {verdict.target:g}" if verdict.target is not None else f"what {plain(verdict.first)} reached"
    axes.set_xlabel(f"steps to {goal}")
    dress(axes, "")
    return figure


def schedules(standings: Sequence[Standing]) -> Figure | None:
    """The learning rates that the runs had."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, standing in enumerate(standings):
        for run in list(standing.runs.values())[:1]:
            points = [(record["step"], record["lr"]) for record in run.training if record.get("lr")]
            how = style(i, marker="")
            axes.plot(*zip(*points, strict=True), **how, label=plain(standing.name)) if points else None
    if not axes.lines:
        return None
    axes.set_yscale("log")
    axes.set_xlabel("step")
    dress(axes, "learning rate")
    _legend(figure)
    return figure


def ratios(standings: Sequence[Standing]) -> Figure | None:
    """Update over parameters, by layer or role, over time: what a probe left of the first seed of each contestant."""
    measured = [s for s in standings if s.runs and _measured(next(iter(s.runs.values())))]
    if not measured:
        return None
    figure = Figure(figsize=(min(4.5 * len(measured), 13), 4.2), layout="constrained")
    for axes, standing in zip(np.atleast_1d(figure.subplots(1, len(measured), sharey=True)), measured, strict=True):
        for i, (name, points) in enumerate(_measured(next(iter(standing.runs.values()))).items()):
            axes.plot(*zip(*points, strict=True), **style(i, marker="", linewidth=1.2), label=plain(name))
        axes.set_yscale("log")
        axes.set_title(plain(standing.name), fontsize="medium")
        axes.set_xlabel("step")
        dress(axes, "RMS of update / RMS of parameters" if standing is measured[0] else "")
    _legend(figure)
    return figure


def _measured(run: RunRecord) -> Mapping[str, list[tuple[int, float]]]:
    """Ratios by what they were measured on; one that is zero or no number has no place on a logarithm."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in run.training:
        for name, value in record.items():
            if name.startswith(RATIO) and value:
                found.setdefault(name.removeprefix(RATIO), []).append((record["step"], value))
    return found


def _legend(figure: Figure) -> None:
    """One legend below, for all axes."""
    handles = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    columns = max(1, min(len(handles), 90 // max(map(len, handles), default=1)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
