"""What is to be judged, read from folders: a comparison's, or those of single runs. Imports no JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt_flax.compare.comparison import Contest
from minigpt_flax.compare.statistics import Entry
from minigpt_flax.errors import UserError
from minigpt_flax.runs.records import RunRecord, read_run

WORDS = ("opt", "schedule")  # say what they are


def entries_of(contest: Contest, folder: Path) -> list[Entry]:
    """The contestants of a comparison, with the runs that are there so far."""
    return [
        Entry(
            who.name,
            [read_run(path.parent) for path in sorted((folder / who.folder).glob("*/config.json"))],
            contest.seeds,
            contest.rates(who),
            contest.search_seed if contest.search else None,
        )
        for who in contest.contestants
    ]


def grouped(runs: Sequence[RunRecord]) -> list[Entry]:
    """Single runs as contestants: those that differ only in their seed are one.

    Raises:
      UserError: two runs of one contestant have one seed.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(repr(_without_seed(run)), []).append(run)
    entries = [Entry(name, members) for name, members in zip(_names(groups), groups.values(), strict=True)]
    for entry in entries:
        seeds = [run.config.get("seed") for run in entry.runs]
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{entry.name} is given twice with the same seed: name each run once")
    return entries


def _without_seed(run: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in run.config.items() if name != "seed"}


def _names(groups: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """A name for each: the values of the fields in which they differ; of one alone, its folder's."""
    firsts = [runs[0] for runs in groups.values()]
    if len(firsts) == 1:
        return [firsts[0].name]
    fields = dict.fromkeys((*WORDS, "lr", *(name for run in firsts for name in run.config)))
    differing = [f for f in fields if f != "seed" and len({repr(run.config.get(f)) for run in firsts}) > 1]
    said = lambda run, f: str(run.config.get(f)) if f in WORDS else f"{f} {run.config.get(f)}"
    return [" ".join(said(run, f) for f in differing) for run in firsts]
