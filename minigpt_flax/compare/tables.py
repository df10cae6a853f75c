"""A verdict as text of 80 columns, Markdown, CSV and JSON. Imports no JAX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from minigpt_flax.compare.statistics import LEVEL, TRACK_3, Pair, Standing, Verdict
from minigpt_flax.text import cut, pad, width

WIDTH = 80
NAME = 17  # columns of the name in the terminal; a longer one is cut there and whole below


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


COLUMNS: tuple[tuple[str, Callable[[Standing], str]], ...] = (
    ("loss +- error", lambda s: _number(s.mean, ".4f") + ("" if s.sem is None else f" +-{s.sem:.4f}")),
    ("lr", lambda s: _number(s.lr, ".2g") + "*" * bool(s.edge)),
    ("steps", lambda s: _number(s.steps, ".0f")),
    ("secs", lambda s: _number(s.seconds, ".0f" if (s.seconds or 0) >= 100 else ".1f")),
    ("speed", lambda s: "-" if s.speedup is None else f"{s.speedup:.2f}x"),
    ("B/par", lambda s: _number(s.state_bytes, ".1f")),
    ("ms", lambda s: _number(s.ms_per_step, ".0f" if (s.ms_per_step or 0) >= 100 else ".1f")),
    ("div", lambda s: str(s.diverged)),
)


def text(verdict: Verdict) -> str:
    """The whole verdict, for a terminal of 80 columns."""
    return "\n\n".join((_table(verdict), *("\n".join(part(verdict)) for part in (legend, findings))))


def _table(verdict: Verdict) -> str:
    rows = [("contestant", *(title for title, _ in COLUMNS))]
    rows += [(cut(s.name, NAME), *(show(s) for _, show in COLUMNS)) for s in verdict.standings]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([pad(row[0], widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join(lines)


def legend(verdict: Verdict) -> list[str]:
    """What the columns mean."""
    goal = (
        f"a loss of {verdict.target:g}"
        if verdict.target is not None
        else f"what {verdict.first} reached with the same seed"
    )
    lines = [
        "loss: validation, nats a token, mean over seeds and its standard error",
        f"steps, secs (of training alone): to {goal}",
        f"speed: tokens to it, {verdict.first} = 1; B/par: bytes of state a parameter",
        "ms: a step, median; div: runs of any rate that broke",
    ]
    return lines + [f"{cut(s.name, NAME)}: {s.name}" for s in verdict.standings if width(s.name) > NAME]


def findings(verdict: Verdict) -> list[str]:
    """Who beats whom, by how much, whether that is more than noise; and what to mistrust."""
    lines = [sentence(test) for test in _of_the_winner(verdict)]
    count = sum(test.p is not None for test in verdict.pairs)
    if count:
        pairs = f"{count} pair{'s' * (count > 1)}"
        lines.append(f"(paired t-test, same weights and batches; p by Holm over {pairs}, level {LEVEL:g})")
    return lines + _choice(verdict) + [line for s in verdict.standings for line in remarks(s, verdict.target)]


def _choice(verdict: Verdict) -> list[str]:
    """Which runs chose the rates: those that are judged choose in their own favour."""
    if verdict.search_seed is not None:
        return [f"(rates chosen by runs with seed {verdict.search_seed}, which are not judged)"]
    if verdict.rates > 1:
        return [f"(each is judged by the runs that chose its rate out of {verdict.rates}: they flatter it a little)"]
    return []


def _of_the_winner(verdict: Verdict) -> list[Pair]:
    """The tests between the first in the table and the others, in the table's order."""
    names = [s.name for s in verdict.standings]
    mine = [test for test in verdict.pairs if names[0] in (test.better, test.worse)]
    return sorted(mine, key=lambda test: max(names.index(test.better), names.index(test.worse)))


def sentence(test: Pair) -> str:
    """One comparison in words."""
    if test.p is None:
        shared = f"{test.seeds} seed{'s' * (test.seeds != 1)} in common"
        return f"{test.better} against {test.worse}: no test, which takes two: {shared}"
    size = f"{test.difference:.4f} +- {test.sem:.4f} over {test.seeds} seeds, p = {test.corrected:.2g}"
    if test.significant:
        return f"{test.better} beats {test.worse} by {size}"
    return f"{test.better} against {test.worse}: {size}, not significant"


def remarks(standing: Standing, target: float | None) -> list[str]:
    """What must be known beside the numbers."""
    found = []
    if standing.edge:
        beyond = "lower" if standing.edge == "lowest" else "higher"
        found.append(
            f"warning: {standing.name}: lr {standing.lr:.2g} is the {standing.edge} tried: try {beyond} ones with --lr"
        )
    if standing.broken:
        found.append(f"warning: {standing.name}: diverged with seed {_list(standing.broken)}; not in its mean")
    if standing.missing:
        found.append(f"warning: {standing.name}: unfinished with seed {_list(standing.missing)}; not in its mean")
    if standing.track_3 is not None:
        n, mean = len(standing.losses), standing.mean or math.nan
        margin = ((target or math.nan) - mean) * math.sqrt(n)
        holds = ">=" if standing.track_3 else "<"
        said = "below the target" if standing.track_3 else "not significantly below the target"
        found.append(f"{standing.name}: {said}: (target - mean) sqrt({n}) = {margin:.4f} {holds} {TRACK_3}")
    return found


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def markdown(verdict: Verdict) -> str:
    """The verdict as a Markdown page."""
    head = ("contestant", *(title for title, _ in COLUMNS))
    rows = [(s.name.replace("|", r"\|"), *(show(s) for _, show in COLUMNS)) for s in verdict.standings]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join([*lines, "", *(f"- {line}" for line in [*findings(verdict), *legend(verdict)]), ""])


FIELDS = (
    "name", "lr", "edge", "mean", "sem", "steps", "seconds", "tokens", "speedup", "state_bytes", "ms_per_step",
    "diverged",
)  # fmt: skip


def as_csv(verdict: Verdict) -> str:
    """A line a contestant."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([_finite(getattr(s, name)) for name in FIELDS] for s in verdict.standings)
    return out.getvalue()


def as_json(verdict: Verdict) -> str:
    """Everything, to be read by programs."""
    return json.dumps(as_values(verdict), indent=2, allow_nan=False) + "\n"


def as_values(verdict: Verdict) -> dict[str, Any]:
    """Everything, as JSON knows it."""
    standings = [
        {name: _finite(getattr(s, name)) for name in FIELDS}
        | {"losses": {str(k): v for k, v in s.losses.items()}, "broken": s.broken, "missing": s.missing}
        | {"track_3": s.track_3}
        for s in verdict.standings
    ]
    pairs = [vars(test) | {"significant": test.significant} for test in verdict.pairs]
    about = {"target": verdict.target, "first": verdict.first, "search_seed": verdict.search_seed}
    return {**about, "standings": standings, "pairs": pairs}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
