"""Format a comparison's summary as text of 80 columns, Markdown, CSV and JSON. Imports no JAX."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from minigpt_flax.compare.statistics import LEVEL, TRACK_3, CandidateResult, PairedTest, Summary
from minigpt_flax.text import cut, pad, width

WIDTH = 80  # columns of the terminal
NAME = 17  # columns of a candidate's name; the legend spells out longer ones


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _loss(result: CandidateResult) -> str:
    return _number(result.mean, ".4f") + ("" if result.sem is None else f" +-{result.sem:.4f}")


COLUMNS: tuple[tuple[str, Callable[[CandidateResult], str]], ...] = (
    ("loss +- error", _loss),
    ("lr", lambda r: _number(r.lr, ".2g") + "*" * bool(r.edge)),
    ("steps", lambda r: _number(r.steps, ".0f")),
    ("secs", lambda r: _number(r.seconds, ".0f" if (r.seconds or 0) >= 100 else ".1f")),
    ("speed", lambda r: "-" if r.speedup is None else f"{r.speedup:.2f}x"),
    ("B/par", lambda r: _number(r.state_bytes, ".1f")),
    ("ms", lambda r: _number(r.ms_per_step, ".0f" if (r.ms_per_step or 0) >= 100 else ".1f")),
    ("div", lambda r: str(r.diverged)),
)


def text(summary: Summary) -> str:
    """The summary for a terminal: table, legend and findings."""
    return "\n\n".join((_table(summary), *("\n".join(part(summary)) for part in (legend, findings))))


def _columns(summary: Summary) -> tuple[tuple[str, Callable[[CandidateResult], str]], ...]:
    """The columns that hold a value, as runs needn't have reached the target, or recorded their times."""
    return tuple(
        (title, cell) for title, cell in COLUMNS if cell is _loss or any(cell(r) != "-" for r in summary.results)
    )


def _table(summary: Summary) -> str:
    columns = _columns(summary)
    rows = [("candidate", *(title for title, _ in columns))]
    rows += [(cut(r.name, NAME), *(cell(r) for _, cell in columns)) for r in summary.results]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([pad(row[0], widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)


def legend(summary: Summary) -> list[str]:
    """Explains the columns that hold a value."""
    shown = {title for title, _ in _columns(summary)}
    goal = (
        f"a validation loss of {summary.target:g}"
        if summary.target is not None
        else f"the final loss of {summary.baseline} with the same seed"
    )
    explained = {
        "loss +- error": "loss: validation loss, nats per token, mean over seeds +- standard error",
        "steps": f"steps: to {goal}",
        "secs": "secs: seconds of training until then",
        "speed": f"speed: speedup in tokens, {summary.baseline} = 1",
        "B/par": "B/par: bytes of state per parameter",
        "ms": "ms: median step time",
        "div": "div: runs that diverged, at any learning rate",
    }
    lines = _packed([line for title, line in explained.items() if title in shown])
    return lines + [f"{cut(r.name, NAME)}: {r.name}" for r in summary.results if width(r.name) > NAME]


def _packed(items: Sequence[str]) -> list[str]:
    """Lines of as many items as fit; no item is broken."""
    whole = " ".join(item.replace(" ", "\0") + ";" for item in items).rstrip(";")
    return [line.replace("\0", " ").rstrip(";") for line in textwrap.wrap(whole, WIDTH)]


def findings(summary: Summary) -> list[str]:
    """Tests of the best candidate against each other one, how they were computed, and warnings."""
    lines = [describe(test) for test in _tests_of_the_best(summary)]
    count = sum(test.p is not None for test in summary.tests)
    if count:
        pairs = f"{count} pair{'s' * (count > 1)}"
        lines.append(f"(paired t-test, same weights and batches; p Holm-corrected, {pairs}; level {LEVEL:g})")
    return lines + _rate_selection(summary) + [line for r in summary.results for line in remarks(r, summary.target)]


def _rate_selection(summary: Summary) -> list[str]:
    """Which runs selected the learning rates: the losses of runs that selected their own are biased low."""
    if summary.search_seed is not None:
        return [f"(learning rates selected by runs with seed {summary.search_seed}, which are not compared)"]
    if summary.rates > 1:
        return [f"(the compared runs selected each rate out of {summary.rates}: losses are slightly optimistic)"]
    return []


def _tests_of_the_best(summary: Summary) -> list[PairedTest]:
    """The tests between the first candidate of the table and the others, in the table's order."""
    names = [r.name for r in summary.results]
    tests = [test for test in summary.tests if names[0] in (test.better, test.worse)]
    return sorted(tests, key=lambda test: max(names.index(test.better), names.index(test.worse)))


def describe(test: PairedTest) -> str:
    """One paired test as a sentence."""
    if test.p is None:
        seeds = f"{test.seeds} seed{'s' * (test.seeds != 1)}"
        return f"{test.better} vs. {test.worse}: not tested, the runs have {seeds} in common and a test needs 2"
    size = f"{test.difference:.4f} +- {test.sem:.4f} over {test.seeds} seeds, p = {test.corrected:.2g}"
    if test.significant:
        return f"{test.better} beats {test.worse} by {size}"
    return f"{test.better} vs. {test.worse}: difference {size}, not significant"


def remarks(result: CandidateResult, target: float | None) -> list[str]:
    """Warnings about a candidate's result, and whether it is below the target."""
    lines = []
    if result.edge:
        side = "lower" if result.edge == "lowest" else "higher"
        lines.append(
            f"warning: {result.name}: lr {result.lr:.2g} is the {result.edge} tried: try {side} ones with --lr"
        )
    if result.diverged_seeds:
        seeds = _list(result.diverged_seeds)
        lines.append(f"warning: {result.name}: diverged with seed {seeds}; excluded from its mean")
    if result.unfinished_seeds:
        seeds = _list(result.unfinished_seeds)
        lines.append(f"warning: {result.name}: unfinished with seed {seeds}; excluded from its mean")
    if result.track_3 is not None:
        n, mean = len(result.losses), result.mean or math.nan
        margin = ((target or math.nan) - mean) * math.sqrt(n)
        sign = ">=" if result.track_3 else "<"
        outcome = "below the target" if result.track_3 else "not significantly below the target"
        lines.append(f"{result.name}: {outcome}: (target - mean) sqrt({n}) = {margin:.4f} {sign} {TRACK_3}")
    return lines


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def markdown(summary: Summary) -> str:
    """The summary as a Markdown page."""
    columns = _columns(summary)
    head = ("candidate", *(title for title, _ in columns))
    rows = [(r.name.replace("|", r"\|"), *(cell(r) for _, cell in columns)) for r in summary.results]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in [*findings(summary), *legend(summary)]), ""])


FIELDS = (
    "name", "lr", "edge", "mean", "sem", "steps", "seconds", "tokens", "speedup", "state_bytes", "ms_per_step",
    "diverged",
)  # fmt: skip


def as_csv(summary: Summary) -> str:
    """The results as CSV, one row per candidate."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([_finite(getattr(r, name)) for name in FIELDS] for r in summary.results)
    return out.getvalue()


def as_json(summary: Summary) -> str:
    """The whole summary as JSON text."""
    return json.dumps(as_values(summary), indent=2, allow_nan=False) + "\n"


def as_values(summary: Summary) -> dict[str, Any]:
    """The whole summary as JSON values; a non-finite number is None."""
    results = [
        {name: _finite(getattr(r, name)) for name in FIELDS}
        | {"losses": {str(seed): loss for seed, loss in r.losses.items()}}
        | {"broken": r.diverged_seeds, "missing": r.unfinished_seeds, "track_3": r.track_3}
        for r in summary.results
    ]
    tests = [vars(test) | {"significant": test.significant} for test in summary.tests]
    about = {"target": summary.target, "first": summary.baseline, "search_seed": summary.search_seed}
    return {**about, "standings": results, "pairs": tests}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
