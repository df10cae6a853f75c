"""Render runs as one self-contained HTML page: interactive curves, comparison, configuration, environment, samples.

Imports no JAX. The page makes no network requests; its Content-Security-Policy allows only its own script, by digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import StringIO
from string import Template
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from minigpt_flax.compare import transfer_tables
from minigpt_flax.compare.figures import finals, losses, mean_curve
from minigpt_flax.compare.statistics import Summary, tokens_of
from minigpt_flax.compare.tables import columns, findings, legend
from minigpt_flax.compare.transfer import Transfer
from minigpt_flax.compare.transfer_figure import draw as draw_transfer
from minigpt_flax.runs.plots import draw_curves, fonts_for
from minigpt_flax.runs.records import Record, RunRecord
from minigpt_flax.runs.schema import CLOCK, SECONDS, STEP, TOKENS, read_text
from minigpt_flax.runs.style import DARK, DASHES, line_styles
from minigpt_flax.text import counted, printable

PATTERNS = ((), (7, 3), (9, 3, 2, 3), (2, 3), (9, 2, 2, 2, 2, 2))  # of a canvas for each of ``DASHES``, pixels
VARIABLES = {color: f"--c{i}" for i, color in enumerate(DARK)}  # CSS variables of a picture's colors
MANY = 8  # columns of a table that takes small print on paper
MOST_ROWS = 60  # of the table of the curves
MAX_NUMBERS = 250_000  # numbers in all curves together, about 2 MB
ASSETS = files("minigpt_flax.report") / "assets"


@dataclass(frozen=True)
class PageRun:
    """A run on the page.

    Attributes:
      run: the run's record.
      group: name of its candidate.
      name: name of the run.
    """

    run: RunRecord
    group: str
    name: str


def render(title: str, shown: Sequence[PageRun], summary: Summary, transfer: Transfer | None = None) -> str:
    """Renders the page.

    Args:
      title: heading of the page.
      shown: the runs, grouped by candidate.
      summary: results of the candidates.
      transfer: best learning rates by width, of a comparison over widths.

    Returns:
      The page's HTML.
    """
    script = _asset("report.js")
    return Template(_asset("report.html")).substitute(
        title=_text(title),
        subtitle=_text(_subtitle(shown)),
        style=_style(),
        comparison=(_comparison(summary) if len(summary.results) > 1 else "") + _widths(transfer),
        pictures=_pictures(shown, summary),
        values=_curves_table(shown),
        configuration=_configuration(shown),
        environment=_environment(shown),
        samples=_samples(shown),
        data=_data(shown),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _text(text: str) -> str:
    """Untrusted text as HTML, with markup, control and bidirectional characters escaped."""
    return escape(printable(text))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet, with the colors of pictures on white and on a dark background."""
    light, dark = (" ".join(f"{name}: {color(key)};" for key, name in VARIABLES.items()) for color in (str, DARK.get))
    return Template(_asset("report.css")).substitute(light=light, dark=dark)


def _pictures(shown: Sequence[PageRun], summary: Summary) -> str:
    """The curves without JavaScript and on paper: those of a single run, or the losses of the candidates."""
    by_name = {result.name: result for result in summary.results}
    names = list(_groups(shown))
    with fonts_for(*names, *(each.name for each in shown)):
        if len(shown) == 1:
            figure = Figure(figsize=(6.5, 6), layout="constrained")
            draw_curves(figure, shown[0].run.records, shown[0].name)
            figures = {"loss, learning rate and gradient norm": figure}
        else:
            results = [by_name[name] for name in names]
            figures = {
                "validation loss": losses(results, summary.baseline),
                "final losses": finals(results),
            }
        return "".join(f"<figure>{inline_svg(f, label)}</figure>" for label, f in figures.items() if f is not None)


def inline_svg(figure: Figure, label: str) -> str:
    """A figure as an SVG element whose colors follow the page's style."""
    file = StringIO()
    rc: Any = {"svg.fonttype": "none"}
    with rc_context(rc):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", "", file.getvalue(), count=1, flags=re.DOTALL)
    box = re.search(r"viewBox=\"[^\"]*\"", file.getvalue())
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href").replace("\n", " ")
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), svg)
    return f'<svg role="img" aria-label="{_text(label)}" {box[0] if box else ""}>{svg}'


def _variable(color: str) -> str:
    return f"var({VARIABLES[color]})" if color in VARIABLES else color


def _curves_table(shown: Sequence[PageRun]) -> str:
    """Mean validation losses by step and candidate."""
    curves = {}
    for name, runs in _groups(shown).items():
        steps, values = mean_curve(runs)
        curves[name] = dict(zip(steps.astype(int).tolist(), values[1].tolist(), strict=True))
    steps = sorted({step for curve in curves.values() for step in curve})
    every = max(1, math.ceil(len(steps) / MOST_ROWS))
    kept = [step for i, step in enumerate(reversed(steps)) if i % every == 0][::-1]
    cell = lambda curve, step: f"{curve[step]:.4f}" if step in curve else "-"
    return _table(["step", *curves], [[f"{step:,}", *(cell(c, step) for c in curves.values())] for step in kept])


def _subtitle(shown: Sequence[PageRun]) -> str:
    runs, first = counted(len(shown), "run"), shown[0].run
    steps = _span([each.run.config["steps"] for each in shown])
    tokens = _span([tokens_of(each.run) for each in shown])
    return f"{runs} of {steps} steps, {tokens} tokens, on {', '.join(first.config['data'])}"


def _span(values: Sequence[int]) -> str:
    """The smallest and the largest number, or the only one."""
    return " to ".join(f"{value:,}" for value in dict.fromkeys((min(values), max(values))))


def _comparison(summary: Summary) -> str:
    shown = columns(summary)
    rows = [[result.name, *(cell(result) for _, cell in shown)] for result in summary.results]
    notes = "".join(
        f"<li{' class=warning' * line.startswith('warning: ')}>{_text(line.removeprefix('warning: '))}</li>"
        for line in findings(summary)
    )
    about = "".join(f"<p class=hint>{_text(line)}</p>" for line in legend(summary))
    table = _table(["candidate", *(title for title, _ in shown)], rows, kind="results")
    parts = f'<div class="wide">{table}</div><ul class="findings">{notes}</ul>{about}'
    return f'<section id="comparison"><h2>Comparison</h2>{parts}</section>'


def _widths(transfer: Transfer | None) -> str:
    """The section on the best learning rates by width; empty without widths."""
    if transfer is None:
        return ""
    figure = Figure(layout="constrained")
    with fonts_for(*(family.name for family in transfer.families)):
        draw_transfer(figure, transfer)
        drawn = inline_svg(figure, "final loss over the learning rate, by width")
    table = _table(transfer_tables.HEAD, transfer_tables.cells(transfer), kind="results")
    notes = "".join(f"<li>{_text(line)}</li>" for line in transfer_tables.findings(transfer))
    about = "".join(f"<p class=hint>{_text(line)}</p>" for line in transfer_tables.LEGEND)
    parts = f'<div class="wide">{table}</div><ul class="findings">{notes}</ul>{about}<figure>{drawn}</figure>'
    return f'<section id="widths"><h2>Widths</h2>{parts}</section>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: Iterable[int] = (), kind: str = "") -> str:
    """An HTML table; ``marked`` holds the indices of highlighted rows, ``kind`` is a class."""
    marks = set(marked)
    cells = lambda tag, row: "".join(f"<{tag}>{_text(text)}</{tag}>" for text in row)
    body = "".join(f"<tr{' class=differs' * (i in marks)}>{cells('td', row)}</tr>" for i, row in enumerate(rows))
    kind = kind or ("many" if len(head) > MANY else "few")
    return f"<table class={kind}><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def _groups(shown: Sequence[PageRun]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for each in shown:
        groups.setdefault(each.group, []).append(each.run)
    return groups


def _configuration(shown: Sequence[PageRun]) -> str:
    """A table with one row per field and one column per candidate; rows in which candidates differ are highlighted."""
    groups = _groups(shown)
    fields = list(dict.fromkeys(field for each in shown for field in each.run.config))
    rows = [[field, *(_values(run.config.get(field) for run in runs) for runs in groups.values())] for field in fields]
    differ = [i for i, row in enumerate(rows) if len(set(row[1:])) > 1]
    return _table(["", *groups], rows, differ)


def _values(values: Iterable[Any]) -> str:
    """The distinct values in order, as text."""
    texts = (", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in values)
    return ", ".join(dict.fromkeys("-" if text in ("None", "") else text for text in texts))


def _environment(shown: Sequence[PageRun]) -> str:
    flat = [dict(_flatten(each.run.env)) for each in shown]
    names = dict.fromkeys(name for env in flat for name in env)
    rows = [[name, _values(env.get(name) for env in flat)] for name in names]
    return _table(["", "value"], rows)


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{above}{name} ")
        else:
            yield above + name, value


def _samples(shown: Sequence[PageRun]) -> str:
    texts = [(each.name, each.run.path / "samples.txt") for each in shown]
    samples = [(name, read_text(path)) for name, path in texts if path.is_file()]
    items = "".join(
        f"<details><summary>{_text(name)}</summary><pre>{_text(text)}</pre></details>" for name, text in samples if text
    )
    return f'<section id="samples"><h2>Samples</h2>{items}</section>' if items else ""


def _data(shown: Sequence[PageRun]) -> str:
    """The script's data as JSON, escaped so that it can't close its ``script`` element."""
    lines = line_styles({group: runs[0].config["opt"] for group, runs in _groups(shown).items()})
    numbers = sum(len(record) for each in shown for record in each.run.records)
    every = max(1, math.ceil(numbers / MAX_NUMBERS))
    runs = [
        {
            "name": printable(each.name),
            "group": printable(each.group),
            "state": each.run.state,
            "color": lines[each.group]["color"],
            "marker": lines[each.group]["marker"],
            "dash": PATTERNS[DASHES.index(lines[each.group]["linestyle"])],
            "series": [_series(part, every) for part in (each.run.training, each.run.validations) if part],
        }
        for each in shown
    ]
    return json.dumps({"runs": runs}, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _series(records: Sequence[Record], every: int) -> dict[str, Any]:
    """Records as columns: each ``every``-th record and the last one."""
    sampled = [record for i, record in enumerate(records) if i % every == 0 or i == len(records) - 1]
    names = [name for name in dict.fromkeys(n for record in sampled for n in record) if name not in CLOCK]
    columns = {name: [_rounded(record.get(name)) for record in sampled] for name in names}
    seconds = [_rounded(record[SECONDS]) for record in sampled]
    clock = {name: [record[name] for record in sampled] for name in (STEP, TOKENS)}
    return {**clock, "seconds": seconds, "y": columns}


def _rounded(value: float | None) -> float | None:
    """Rounds to five significant digits; None if non-finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
