"""Results as a table for a terminal, as Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jaxopt_conformance.running import Result

HEADER = ("recording", "verdict", "deviation", "first step", "explanation")


def cells(result: Result) -> tuple[str, ...]:
    """One row, without the call."""
    deviation = "" if result.deviation is None else f"{result.deviation:.1e}"
    step = "" if result.first_step is None else str(result.first_step)
    why = "; ".join(filter(None, (result.explanation, result.documented, result.error)))
    return result.recording, result.verdict, deviation, step, why


def summary(results: Sequence[Result]) -> str:
    """How many rows have which verdict."""
    counts = Counter(result.verdict for result in results)
    count = f"{len(results)} recording" + "s" * (len(results) != 1)
    return f"{count}: " + ", ".join(f"{counts[v]} {_plural(v, counts[v])}" for v in counts)


def _plural(verdict: str, count: int) -> str:
    """The verb in the number of its subject."""
    return verdict if count == 1 else {"agrees": "agree", "departs": "depart", "fails": "fail"}[verdict]


def table(versions: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Aligned columns."""
    rows = [HEADER, *map(cells, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER) - 1)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]
    return "\n".join([_title(versions), "", *lines, "", summary(results), ""])


def markdown(versions: Mapping[str, Any], results: Sequence[Result]) -> str:
    """A Markdown table."""
    rows = [f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *map(cells, results))]
    return "\n".join([_title(versions), "", *rows, "", summary(results), ""])


def as_json(versions: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The versions and every field of every row."""
    rows = [dataclasses.asdict(result) | {"verdict": result.verdict} for result in results]
    return json.dumps({"versions": dict(versions), "results": rows}, indent=1) + "\n"


def _title(versions: Mapping[str, Any]) -> str:
    """The versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if name != "library")


FORMATS = {"table": table, "markdown": markdown, "json": as_json}
