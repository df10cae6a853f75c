"""The reference comparison: ``python -m benchmarks.reference --shakespeare tinyshakespeare.txt [--only PART]``.

Twelve optimizers train preset ``nano`` on the default corpus. Given a file of tiny Shakespeare, five of them train on
it too. Runs have 1000 steps, with the learning rate decayed to zero; its peak is found by the search of ``compare --lr
auto``, and three seeds that the search didn't use are compared. The time needed is estimated first and printed; more
than ``--hours`` is refused.

Ctrl-C stops it, and the same command resumes it; finished runs are never repeated. A finished part is written to
``docs/optimizers/results.md`` with its figures, and its result to ``benchmarks/results/<machine>.json``; the other
part of the page stays unchanged. Running the command again only rewrites these files. ``--steps 24 --opt adamw --opt
lion --out /tmp/x --docs /tmp/y`` is a test of one to two minutes.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import jax
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.results import RESULTS, environment, machine, save
from docs.drawing import standings
from docs.drawing.svg import save as save_twins
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, number, whole
from minigpt_flax.compare import comparison as comparisons, rate_search
from minigpt_flax.compare.collect import collect_runs
from minigpt_flax.compare.comparison import Candidate, Comparison
from minigpt_flax.compare.figures import finals, mean_curve, rates
from minigpt_flax.compare.runner import run_comparison
from minigpt_flax.compare.statistics import CandidateRuns, Summary, summarize
from minigpt_flax.compare.tables import as_values, markdown, text
from minigpt_flax.compare.traced_run import trace_run
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.records import RunRecord
from minigpt_flax.runs.style import RC
from minigpt_flax.train.build import build
from minigpt_flax.train.clock import spell
from minigpt_flax.train.parallel.xla_flags import huge_pages

OPTS = (
    "adamw", "nadamw", "adam", "lion", "muon", "soap", "sgd", "ademamix", "mars", "adafactor", "lamb", "radam",
)  # fmt: skip
FEW = ("adamw", "nadamw", "lion", "muon", "soap")
STEPS, SEEDS, HOURS = 1000, 3, 2.5
POINTS = 40  # validations of a run that is compared
SCHEDULE = "warmup_cosine(warmup=0.05, floor=0.0)"
TIMED = 10  # steps, as many again before them: the first are slow, while memory is new; SOAP's bases turn every tenth
DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Part:
    """One of the comparisons.

    Attributes:
      name: of its folder, pictures and results.
      title: of its section.
      comparison: what it trains.
    """

    name: str
    title: str
    comparison: Comparison


def parts(opts: Sequence[str], few: Sequence[str], steps: int, shakespeare: str | None) -> list[Part]:
    """The default corpus and, if there is a file of it, Shakespeare."""

    def comparison(specs: Sequence[str], **more: Any) -> Comparison:
        given = {"steps": steps, "schedule": SCHEDULE, "eval_every": max(1, steps // POINTS), **more}
        return comparisons.check(Comparison("nano", given, tuple(specs), (), (), True, tuple(range(SEEDS))))

    found = [Part("pydocs", "The Python documentation", comparison(opts))]
    if shakespeare is not None:
        found.append(Part("shakespeare", "Tiny Shakespeare", comparison(few, data=(shakespeare,))))
    return found


def pace(comparison: Comparison, candidate: Candidate) -> tuple[float, float]:
    """Seconds of a step of this candidate, and of one validation."""
    config = comparison.config(candidate)
    run = build(config)
    one = trace_run(run, config.steps).single(config)
    after = lambda state, t: jax.block_until_ready(one.step(state, one.batches(t))[0])
    state = functools.reduce(after, range(TIMED), one.init())
    before = time.perf_counter()
    state = functools.reduce(after, range(TIMED, 2 * TIMED), state)
    step = (time.perf_counter() - before) / TIMED
    run.evaluate(state.evaluation_params)
    before = time.perf_counter()
    run.evaluate(state.evaluation_params)
    return step, time.perf_counter() - before


def paces(part: Part, path: Path) -> dict[str, tuple[float, float]]:
    """The pace of every candidate, measured once: results in the file are reused."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for candidate in part.comparison.candidates:
        if candidate.name not in known:
            known[candidate.name] = pace(part.comparison, candidate)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(known, indent=1) + "\n")
    return known


def seconds(comparison: Comparison, step: float, validation: float) -> float:
    """Seconds for a candidate: the steps of its search and of its seeds, and their validations."""
    search = rate_search.lengths(comparison.steps)
    validations = len(search) + SEEDS * POINTS
    return step * (sum(search) + SEEDS * comparison.steps) + validation * validations


def curve(runs: Sequence[RunRecord]) -> dict[str, list[float]]:
    """Validation loss over the steps: ``step``, and ``mean``, ``min`` and ``max`` over the seeds, rounded to 1e-4."""
    steps, values = mean_curve(runs)
    low, mean, high = values.round(4).tolist()
    return {"step": [int(step) for step in steps], "mean": mean, "min": low, "max": high}


def with_curves(verdict: Summary) -> dict[str, Any]:
    """The verdict as JSON values, with the curve of every optimizer of which all seeds are finished."""
    values = as_values(verdict)
    for standing, result in zip(values["standings"], verdict.results, strict=True):
        if result.mean is not None:
            standing["curve"] = curve(list(result.runs.values()))
    return values


def without_times(verdict: Summary) -> Summary:
    """The verdict without seconds and milliseconds: the runs share the machine with others, hours apart."""
    timeless: dict[str, Any] = {"seconds": None, "ms_per_step": None, "ms_range": None}
    return replace(verdict, results=[replace(result, **timeless) for result in verdict.results])


def budget(part: Part, folder: Path) -> float:
    """Prints the estimated duration of a part; returns it in seconds."""
    known = paces(part, folder / f"{part.name}-pace.json")
    print(f"{part.title}: {part.comparison.runs} runs, {part.comparison.budget:,} steps", flush=True)
    total = 0.0
    for name, (step, validation) in known.items():
        total += (each := seconds(part.comparison, step, validation))
        print(f"  {name:12s}{1000 * step:7.0f} ms/step{spell(each):>9s}", flush=True)
    return total


@contextmanager
def clocked(path: Path) -> Iterator[None]:
    """Adds the seconds that the body takes to those of earlier calls, even after an error."""
    before = time.monotonic()
    try:
        yield
    finally:
        path.write_text(json.dumps(spent(path) + time.monotonic() - before))


def spent(path: Path) -> float:
    """Seconds of all calls."""
    return json.loads(path.read_text()) if path.exists() else 0.0


CAPTIONS = {
    "loss": "validation loss over the steps, one curve per optimizer",
    "final": "final loss of every seed, and the mean with its 95 % interval",
    "rates": "final loss over the learning rate, one curve per optimizer",
}
MARKS = "<!-- part: {} -->", "<!-- part: end -->"  # around a part of the page

HEAD = """<!-- written by python -m benchmarks.reference -->
# The reference comparison

Setup: preset `nano` (0.8 M parameters), {steps:,} steps of 768 characters, learning rate warmed up over 5 % of the run
and decayed to zero. Each optimizer has a learning rate that the search of `compare --lr auto` found around its default
in `train.py`, with a separate seed. Results are over {seeds} seeds that the search didn't use, with the same initial
weights and batches for all optimizers. To reproduce it (resumable):

    python -m benchmarks.reference --shakespeare tinyshakespeare.txt

where the file is `data/tinyshakespeare/input.txt` of `github.com/karpathy/char-rnn`.

**Limits.** Model, runs and batches are small. This favors optimizers that are fast in the first thousand steps; the
ranking at scale may differ. Only the learning rate is tuned; the other arguments are those of the preset. The search is
short, so another learning rate may be better. A warning marks optimizers whose best learning rate is at the
edge of the grid: they may do better than shown. Times are omitted: the runs shared their machine with other work.
"""


def section(
    part: Part, entries: Sequence[CandidateRuns], verdict: Summary, facts: Mapping[str, Any], docs: Path
) -> str:
    """The part as Markdown, with its figures beside the page.

    Args:
      part: which.
      entries: of its runs.
      verdict: their comparison.
      facts: ``machine``, ``date``, and the ``expected`` and actual (``took``) duration.
      docs: folder of the page.
    """
    cost = "{runs} runs in {took} (estimated: {expected}). Machine: {machine}, {date}."
    lines = [f"## {part.title}", "", cost.format(runs=part.comparison.runs, **facts), "", markdown(verdict)]
    for name in figures(part, entries, verdict, docs):
        lines += [f"![{CAPTIONS[name]}](../pictures/reference-{part.name}-{name}.svg)", ""]
    return "\n".join(lines)


def figures(part: Part, entries: Sequence[CandidateRuns], verdict: Summary, docs: Path) -> list[str]:
    """Writes the figures that the runs have data for; returns their names.

    ``python -m docs.drawing`` draws ``loss`` and ``final`` from the recorded result; ``rates`` needs the search's runs.
    """
    result = {**with_curves(verdict), "steps": part.comparison.steps}
    drawn = []
    with rc_context(RC):
        loss = Figure(layout="constrained")
        standings.losses(loss, result, standings.DATA[part.name])
        for name, figure in {"loss": loss, "final": finals(verdict.results), "rates": rates(entries)}.items():
            if figure is not None:
                save_twins(figure, docs / "pictures" / f"reference-{part.name}-{name}.svg")
                drawn.append(name)
    return drawn


def write(sections: Mapping[str, str], steps: int, docs: Path) -> Path:
    """Replaces parts of the page, keeps the others.

    Args:
      sections: texts by the names of their parts.
      steps: of every run.
      docs: folder of the page.
    """
    page = docs / "optimizers" / "results.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    start, end = MARKS
    marked = re.compile(re.escape(start).replace(r"\{\}", r"(\w+)") + r"\n(.*?)" + re.escape(end), re.DOTALL)
    known = dict(marked.findall(page.read_text(encoding="utf-8"))) if page.exists() else {}
    head = HEAD.format(steps=steps, seeds=SEEDS)
    body = "".join(f"\n{start.format(name)}\n{text}{end}\n" for name, text in {**known, **sections}.items())
    page.write_text(head + body, encoding="utf-8")
    return page


def refuse(name: str, todo: Sequence[Part]) -> NoReturn:
    """Raises an error that lists the parts."""
    hint = "" if len(todo) > 1 else "; --shakespeare FILE adds one"
    raise UserError(f"--only {name}: the parts are {', '.join(part.name for part in todo)}{hint}")


def run(arguments: list[str]) -> int:
    """Estimates the duration, trains, compares and writes the page."""
    parser = Parser(prog="python -m benchmarks.reference", description=__doc__)
    add = parser.add_argument
    add("--shakespeare", metavar="FILE", help="text of tiny Shakespeare, for the second part")
    add("--only", metavar="PART", help="run one part: pydocs or shakespeare")
    add("--opt", action="append", metavar="SPEC", help="optimizers of the first part; repeatable [twelve]")
    add("--few", action="append", metavar="SPEC", help="optimizers of the second part; repeatable [five]")
    add("--steps", type=whole, default=STEPS, metavar="N", help=f"steps per run [{STEPS}]")
    add("--hours", type=number, default=HOURS, metavar="H", help=f"refuse if it would take longer [{HOURS}]")
    add("--jobs", type=whole, default=1, metavar="N", help="parallel processes [1]")
    add("--out", type=Path, default=Path("runs/reference"), metavar="DIR", help="folder for the runs [runs/reference]")
    add("--docs", type=Path, default=DOCS, metavar="DIR", help="folder for the page [docs]")
    add("--results", type=Path, metavar="FILE", help="file for the results [that of this machine]")
    given = parser.parse(arguments)
    todo = parts(given["opt"] or OPTS, given["few"] or FEW, given["steps"], given["shakespeare"])
    if given["only"] is not None:
        todo = [part for part in todo if part.name == given["only"]] or refuse(given["only"], todo)
    expected = {part.name: budget(part, given["out"]) for part in todo}
    print(f"total {spell(sum(expected.values()))}, at the current load of this machine", flush=True)
    if sum(expected.values()) > given["hours"] * 3600:
        raise UserError(f"that is over --hours {given['hours']:g}: give fewer --opt or --steps, or more --hours")
    given["docs"].mkdir(parents=True, exist_ok=True)
    for part in todo:
        folder, clock = given["out"] / part.name, given["out"] / f"{part.name}-seconds.json"
        with clocked(clock):
            status = run_comparison(part.comparison, folder, jobs=given["jobs"])
        if status:
            return status
        entries = collect_runs(part.comparison, folder)
        verdict, known = without_times(summarize(entries)), environment()
        print(f"\n{part.title}\n\n{text(verdict)}\n")
        values = {**known, "steps": given["steps"], "seconds": round(spent(clock)), **with_curves(verdict)}
        save(given["results"] or RESULTS / f"{machine()}.json", f"reference, {part.name}", values)
        facts = {**known, "expected": spell(expected[part.name]), "took": spell(spent(clock))}
        written = section(part, entries, verdict, facts, given["docs"])
        print(f"wrote {show(write({part.name: written}, given['steps'], given['docs']))}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.reference", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    huge_pages()  # as the runs themselves have them
    sys.exit(main())
