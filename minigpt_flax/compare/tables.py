"""Format a comparison's summary as text of 80 columns, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from minigpt_flax.compare.latex import latex, two_digits
from minigpt_flax.compare.paired_tests import LEVEL, POWER, PairedTest, resolved, seeds_needed
from minigpt_flax.compare.sequential import sequence
from minigpt_flax.compare.statistics import TRACK_3, CandidateResult, Summary
from minigpt_flax.errors import UserError
from minigpt_flax.spec import parse, settings
from minigpt_flax.text import aligned, counted, cut, printable, width

WIDTH = 80  # columns of the terminal
SHORTEST, LONGEST = 6, 17  # columns of a candidate's name; the legend spells out longer ones


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _loss(result: CandidateResult) -> str:
    low, high = result.interval or (0.0, 0.0)
    return _number(result.mean, ".4f") + ("" if result.interval is None else f" +-{(high - low) / 2:.4f}")


def _range(span: tuple[float, float] | None) -> str:
    """The fastest and the slowest time."""
    if span is None:
        return "-"
    low, high = map(two_digits, span)
    return low if low == high else f"{low}-{high}"


def _diverged(result: CandidateResult) -> str:
    """Diverged of all compared runs, and the 95 % interval in percent."""
    if not result.ended:
        return "-"
    low, high = (100 * end for end in result.diverged_interval)
    return f"{len(result.diverged_seeds)}/{result.ended} {low:.0f}-{high:.0f}%"


COLUMNS: tuple[tuple[str, Callable[[CandidateResult], str]], ...] = (
    ("loss +- 95 %", _loss),
    ("lr", lambda r: _number(r.lr, ".2g") + "*" * bool(r.edge)),
    ("steps", lambda r: _number(r.steps, ".0f")),
    ("speed", lambda r: "-" if r.speedup is None else f"{r.speedup:.2f}x"),
    ("B/par", lambda r: _number(r.state_bytes, ".1f")),
    ("ms", lambda r: _range(r.ms_range)),
    ("diverged", _diverged),
)


def _length(result: CandidateResult) -> str:
    """Steps of a run, times tokens per step."""
    return "-" if result.length is None else "{:,}x{:,}".format(*result.length)


def text(summary: Summary) -> str:
    """The summary for a terminal: table, legend and findings."""
    wrapped = "\n".join(line for sentence in findings(summary) for line in _wrapped(sentence))
    return "\n\n".join((_table(summary), "\n".join(legend(summary)), wrapped))


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def columns(summary: Summary) -> tuple[tuple[str, Callable[[CandidateResult], str]], ...]:
    """Titles and cells of the columns that hold a value, as runs needn't have reached the target, or recorded times.

    The length of the runs has a column if candidates differ in it.
    """
    first, *others = COLUMNS
    lengths = [("run", _length)] * summary.lengths_differ
    used = [(title, cell) for title, cell in others if any(cell(r) != "-" for r in summary.results)]
    return (first, *lengths, *used)


def _rows(summary: Summary) -> list[tuple[str, ...]]:
    """Title and values of every column but the name's."""
    shown = columns(summary)
    return [tuple(title for title, _ in shown), *(tuple(cell(r) for _, cell in shown) for r in summary.results)]


def _name_width(summary: Summary) -> int:
    """Columns that are left for the candidate's name."""
    others = sum(2 + max(map(width, column)) for column in zip(*_rows(summary), strict=True))
    return max(SHORTEST, min(LONGEST, WIDTH - others))


def _table(summary: Summary) -> str:
    room = _name_width(summary)
    names = [cut(name, room) for name in ("candidate", *(r.name for r in summary.results))]
    rows = [(name, *row) for name, row in zip(names, _rows(summary), strict=True)]
    return "\n".join(aligned(rows))


def legend(summary: Summary) -> list[str]:
    """Explains the columns that hold a value."""
    shown = {title for title, _ in columns(summary)}
    goal = (
        f"a validation loss of {summary.target:g}"
        if summary.target is not None
        else f"the final loss of {summary.baseline} with the same seed"
    )
    explained = {
        "loss +- 95 %": "loss: validation loss, nats per token, mean over seeds +- 95 % t interval",
        "run": "run: steps x tokens per step of each run",
        "steps": f"steps: to {goal}",
        "speed": f"speed: speedup in tokens, {summary.baseline} = 1",
        "B/par": "B/par: bytes of state per parameter",
        "ms": "ms: step time of the fastest and slowest run",
        "diverged": "diverged: of the compared runs, with a 95 % interval of the probability",
    }
    lines = _packed([line for title, line in explained.items() if title in shown])
    return lines + [line for sentence in _specs(summary) for line in _wrapped(sentence)]


def _specs(summary: Summary) -> list[str]:
    """The names that are too long for the table, and the complete specs of the optimizers."""
    room = _name_width(summary)
    lines = [f"{cut(r.name, room)}: {r.name}" for r in summary.results if width(r.name) > room]
    specs: dict[str, list[str]] = {}
    for result in summary.results:
        specs.setdefault(result.spec, []).append(result.name)
    for spec, names in specs.items():
        everyone = "all" if len(names) == len(summary.results) > 1 else ", ".join(names)
        if spec and any(spec not in name for name in names):
            lines.append(f"{everyone}: {spec}")
    return lines


def _packed(items: Sequence[str]) -> list[str]:
    """Lines of as many items as fit; no item is broken."""
    whole = " ".join(item.replace(" ", "\0") + ";" for item in items).rstrip(";")
    return [line.replace("\0", " ").rstrip(";") for line in textwrap.wrap(whole, WIDTH)]


def findings(summary: Summary) -> list[str]:
    """The planned tests, how they were computed, and warnings."""
    names, needed = [r.name for r in summary.results], [*summary.looks, seeds_needed(len(summary.tests))][0]
    order = lambda test: sorted((names.index(test.better), names.index(test.worse)))
    lines = [describe(test, needed) for test in sorted(summary.tests, key=order)]
    lines += _method(summary) + _rate_selection(summary) + confounders(summary)
    return lines + [line for r in summary.results for line in remarks(r, summary.target)]


def _method(summary: Summary) -> list[str]:
    """How p was computed, which runs are paired, and what the seeds resolve."""
    count = len(summary.tests)
    if not any(test.p is not None for test in summary.tests):
        return []
    lines = [
        f"(p: larger of signed-rank, paired t-test; Holm-corrected, {counted(count, 'test')}; level {LEVEL:g})",
        f"({_pairing(summary)}; resolution {summary.resolution:g})",
    ]
    seeds = max(test.seeds for test in summary.tests)
    smallest = resolved(summary.tests, seeds)
    if summary.looks:
        return [*lines, f"({sequence(summary.looks)})"]
    return lines + ([f"({power(seeds, smallest)})"] if smallest else [])


def power(seeds: int, smallest: float) -> str:
    """What so many seeds resolve, as a sentence."""
    return f"{seeds} seeds detect a difference of {smallest:.2g} with a probability of {POWER:.0%}"


def _pairing(summary: Summary) -> str:
    """What runs with the same seed share, as far as it is recorded."""
    if summary.differing is None:
        return "paired by seed; the same weights and data aren't recorded"
    if summary.differing:
        return f"paired by seed, but the runs differ in {', '.join(summary.differing)}"
    return "paired by seed: same weights and batches"


def _rate_selection(summary: Summary) -> list[str]:
    """Which runs selected the learning rates: the losses of runs that selected their own are biased low."""
    if summary.search_seed is not None:
        return [f"(learning rates selected by runs with seed {summary.search_seed}, which are not compared)"]
    if summary.selecting and summary.tests:
        return [
            f"(the compared runs selected each rate out of {summary.rates}, so the losses above are biased low; tests "
            "use the rate that the first seed selects, and the other seeds)"
        ]
    return []


def confounders(summary: Summary) -> list[str]:
    """Keywords, beside those in its name, in which a candidate's optimizer differs from the baseline's."""
    results = {r.name: r for r in summary.results}
    first = results[summary.baseline]
    own = _keywords(first.spec)
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for result in results.values():
        named = set(re.findall(r"(\w+)=", f"{result.name} {first.name}"))
        theirs = _keywords(result.spec)
        differing = [k for k in own if k in theirs and theirs[k] != own[k] and k not in named]
        groups.setdefault(tuple((k, theirs[k]) for k in differing), []).append(result.name)
    lines = []
    for values, names in groups.items():
        if values:
            base = _joined([f"{k} {own[k]}" for k, _ in values])
            lines.append(f"(note: {first.name} has {base}, {_joined(names)} {_joined([v for _, v in values])})")
    return lines


def _keywords(spec: str) -> dict[str, str]:
    """The keywords of an optimizer's spec as text, with the defaults of the library's own optimizers."""
    from jaxopt_mini import OPTIMIZERS  # takes a second: JAX

    try:
        parsed = parse(spec, "optimizer")
    except UserError:  # of another release
        return {}
    row = OPTIMIZERS.get(parsed.name)
    values = settings(parsed, row) if row else parsed.keywords
    return {
        k: f"{v:g}" if isinstance(v, int | float) and not isinstance(v, bool) else str(v) for k, v in values.items()
    }


def _joined(items: Sequence[str]) -> str:
    """Items as a phrase.

    >>> _joined(["a", "b", "c"]), _joined(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([*filter(None, [", ".join(items[:-1])]), *items[-1:]])


def describe(test: PairedTest, needed: int) -> str:
    """One paired test as a sentence.

    Args:
      test: the test.
      needed: number of seeds that a verdict takes.
    """
    if test.p is None:
        return f"{test.better} vs. {test.worse}: not tested, {test.obstacle or 'no seed ended for both'}"
    size = "" if test.difference is None else f" {test.difference:.4f}"
    if test.interval is not None:
        size += " (95 %: {:.4f} to {:.4f})".format(*test.interval)
    over = f", {counted(test.seeds, 'seed')}, p = {test.corrected:.2g}"
    if test.significant:
        return f"{test.better} beats {test.worse}{' by' * bool(size)}{size}{over}"
    return f"{test.better} vs. {test.worse}: difference{size or ' unknown'}{over}, {_no_verdict(test, needed)}"


def _no_verdict(test: PairedTest, needed: int) -> str:
    """Why a test gives no verdict."""
    if test.obstacle:
        return f"no verdict: {test.obstacle}"
    if test.seeds < needed:
        return f"no verdict: {needed} seeds can decide"
    return "not significant"


def remarks(result: CandidateResult, target: float | None) -> list[str]:
    """Warnings about a candidate's result, and whether it is below the target."""
    lines = []
    if result.edge:
        side = "lower" if result.edge == "lowest" else "higher"
        lines.append(
            f"warning: {result.name}: the best lr may be {side} than {result.lr:.2g}: try {side} ones with --lr"
        )
    if result.diverged_seeds:
        seeds = _list(result.diverged_seeds)
        lines.append(f"warning: {result.name}: diverged with seed {seeds}: the worst outcome in tests, not in its mean")
    if result.unfinished_seeds:
        seeds = _list(result.unfinished_seeds)
        lines.append(f"warning: {result.name}: unfinished with seed {seeds}; excluded from its mean")
    if elsewhere := result.diverged - len(result.diverged_seeds):
        lines.append(f"{result.name}: {counted(elsewhere, 'run')} diverged at other learning rates")
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
    shown = columns(summary)
    head = ("candidate", *(title for title, _ in shown))
    rows = [
        (markdown_text(r.name), *(_bold(cell(r), cell is _loss and r.name == summary.best) for _, cell in shown))
        for r in summary.results
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]
    notes = [*findings(summary), *legend(summary)]
    return "\n".join([*lines, "", *(f"- {markdown_text(line)}" for line in notes), ""])


def _bold(text: str, bold: bool) -> str:
    """Marks the number before the first space."""
    number, space, rest = text.partition(" ")
    return f"**{number}**{space}{rest}" if bold else text


def markdown_text(text: str) -> str:
    r"""Text as Markdown, without markup.

    >>> markdown_text("a|b_c <d>")
    'a\\|b\\_c \\<d>'
    """
    return re.sub(r"([\\`*_\[\]<|~#])", r"\\\1", " ".join(printable(text).split()))


FIELDS = (
    "name", "lr", "edge", "mean", "sem", "steps", "seconds", "tokens", "speedup", "state_bytes", "ms_per_step",
    "diverged", "low", "high", "diverged_low", "diverged_high", "ms_low", "ms_high", "spec", "seeds", "difference",
    "difference_low", "difference_high", "p", "p_corrected", "run_steps", "tokens_per_step",
)  # fmt: skip


def as_csv(summary: Summary) -> str:
    """The results as CSV, one row per candidate, with all digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(_fields(summary, r).values() for r in summary.results)
    return out.getvalue()


def as_json(summary: Summary) -> str:
    """The whole summary as JSON text."""
    return json.dumps(as_values(summary), indent=2, allow_nan=False) + "\n"


def as_values(summary: Summary) -> dict[str, Any]:
    """The whole summary as JSON values; a non-finite number is None."""
    results = [
        _fields(summary, r)
        | {"losses": {str(seed): loss for seed, loss in r.losses.items()}}
        | {"broken": r.diverged_seeds, "missing": r.unfinished_seeds, "track_3": r.track_3}
        for r in summary.results
    ]
    tests = [vars(test) | {"significant": test.significant} for test in summary.tests]
    about = {"target": summary.target, "first": summary.baseline, "search_seed": summary.search_seed}
    return {
        **about,
        "standings": results,
        "pairs": tests,
        "resolution": summary.resolution,
        "level": LEVEL,
        "looks": summary.looks,
    }


def _fields(summary: Summary, result: CandidateResult) -> dict[str, Any]:
    """The values of ``FIELDS``: intervals are of the mean, of the probability to diverge and of the difference."""
    low, high = result.interval or (None, None)
    diverged_low, diverged_high = result.diverged_interval
    ms_low, ms_high = result.ms_range or (None, None)
    more = {"low": low, "high": high, "diverged_low": diverged_low, "diverged_high": diverged_high}
    steps, tokens = result.length or (None, None)
    more |= {"run_steps": steps, "tokens_per_step": tokens}
    more |= {"ms_low": ms_low, "ms_high": ms_high, "seeds": len(result.losses)} | _difference(summary, result.name)
    return {name: _finite(more[name] if name in more else getattr(result, name)) for name in FIELDS}


def _difference(summary: Summary, name: str) -> dict[str, float | None]:
    """The candidate's mean loss minus the baseline's, its 95 % interval and p."""
    test, (difference, interval) = summary.against_baseline(name), summary.difference(name)
    low, high = interval or (None, None)
    p, corrected = (None, None) if test is None else (test.p, test.corrected)
    return {
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "p": p,
        "p_corrected": corrected,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


FORMATS: dict[str, Callable[[Summary], str]] = {"latex": latex, "markdown": markdown, "csv": as_csv, "json": as_json}
