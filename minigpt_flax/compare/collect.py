"""Read the runs to compare: those of a comparison's folder, or single runs. Imports no JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt_flax.compare.comparison import Candidate, Comparison
from minigpt_flax.compare.rate_search import SHORT, open_end
from minigpt_flax.compare.statistics import CandidateRuns, Summary, outcomes, summarize
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.records import RunRecord, read_run

UNLABELED = ("opt", "schedule")  # fields whose value names a candidate without the field's name
UNNAMED = ("seed", "tokens_per_step")  # fields that never name one; the second follows from others
LONGEST = 500  # characters of such a name; config.json may hold longer values
READABLE = 40  # characters of a name that fits beside a line of a figure


def collect_runs(comparison: Comparison, folder: Path) -> list[CandidateRuns]:
    """The candidates of a comparison, each with the runs that exist so far."""
    return [_collect(comparison, candidate, folder) for candidate in comparison.candidates]


def _collect(comparison: Comparison, candidate: Candidate, folder: Path) -> CandidateRuns:
    runs = [read_run(path.parent) for path in sorted((folder / candidate.folder).glob("*/config.json"))]
    if not comparison.search:
        return CandidateRuns(candidate.name, runs, comparison.seeds, comparison.rates(candidate))
    if comparison.widths:
        runs = [run for run in runs if run.config["seed"] != comparison.search_seed]
        return CandidateRuns(candidate.name, runs, comparison.seeds, sorted({run.config["lr"] for run in runs}))
    tried = [run for run in runs if run.config["seed"] == comparison.search_seed]
    rates = sorted({run.config["lr"] for run in tried})
    end = open_end(outcomes_by_rate(tried, comparison.steps // SHORT))
    return CandidateRuns(candidate.name, runs, comparison.seeds, rates, comparison.search_seed, end)


def outcomes_by_rate(runs: Sequence[RunRecord], steps: int) -> dict[float, float]:
    """The losses of ended runs of this length by learning rate; infinite for a diverged one."""
    found = {run.config["lr"]: run for run in runs if run.config["steps"] == steps}
    return outcomes(found)


def summarize_comparison(
    comparison: Comparison, candidates: Sequence[CandidateRuns], target: float | None = None
) -> Summary:
    """The results of a comparison, with the tests that it fixed; there are none over widths.

    Args:
      comparison: what is compared.
      candidates: its runs so far; see :func:`collect_runs`.
      target: validation loss to reach; None takes that of the comparison.
    """
    return summarize(
        candidates,
        comparison.target if target is None else target,
        baseline=comparison.baseline,
        pairs=comparison.pairs,
        resolution=comparison.resolution,
        looks=comparison.looks,
        tested=not comparison.widths,
    )


def with_distinct_names(sources: Sequence[tuple[Path, Sequence[CandidateRuns]]]) -> list[CandidateRuns]:
    """The candidates of several comparisons; a name that two of them have gets the name of its folder too.

    Args:
      sources: folders and their candidates.

    Raises:
      UserError: a folder is given twice.
    """
    paths = [path.resolve() for path, _ in sources]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UserError(f"{show(twice[0])} is given twice: name each folder once")
    names = [candidate.name for _, candidates in sources for candidate in candidates]
    folders = [path.name for path in paths]
    label = {path: path.name if folders.count(path.name) == 1 else show(path) for path in paths}
    return [
        dataclasses.replace(each, name=f"{label[path]}: {each.name}") if names.count(each.name) > 1 else each
        for path, (_, candidates) in zip(paths, sources, strict=True)
        for each in candidates
    ]


def group_runs(runs: Sequence[RunRecord]) -> list[CandidateRuns]:
    """Groups single runs into candidates: runs that differ only in their seed belong together.

    Raises:
      UserError: two runs of a candidate have the same seed.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(repr(_config_without_seed(run)), []).append(run)
    candidates = [CandidateRuns(name, members) for name, members in zip(_names(groups), groups.values(), strict=True)]
    for candidate in candidates:
        seeds = [run.config.get("seed") for run in candidate.runs]
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{candidate.name} is given twice with the same seed: name each run once")
    return candidates


def _config_without_seed(run: RunRecord) -> dict[str, Any]:
    return {name: _value(run, name) for name in run.config if name != "seed"}


def _value(run: RunRecord, name: str) -> Any:
    """A field that distinguishes runs; data are the same under another path."""
    return run.data_id if name == "data" else run.config.get(name)


def _names(groups: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """Names each group by the fields in which groups differ; a single group by its first run's folder.

    Single runs that differ in too much for a label are named by their folders. A name that would be too long to print
    or to draw is replaced by the path of the first run.
    """
    firsts = [runs[0] for runs in groups.values()]
    if len(firsts) == 1:
        return [firsts[0].name]
    fields = dict.fromkeys((*UNLABELED, "lr", *(name for run in firsts for name in run.config)))
    differing = [f for f in fields if f not in UNNAMED and len({repr(_value(run, f)) for run in firsts}) > 1]
    label = lambda run, f: str(run.config.get(f)) if f in UNLABELED else f"{f} {run.config.get(f)}"
    names = [" ".join(label(run, f) for f in differing) for run in firsts]
    folders = [run.name for run in firsts]
    if max(map(len, names)) > READABLE and all(len(runs) == 1 for runs in groups.values()):
        if len(set(folders)) == len(folders) and max(map(len, folders)) <= READABLE:
            return folders
    return [name if len(name) <= LONGEST else show(run.path) for name, run in zip(names, firsts, strict=True)]
