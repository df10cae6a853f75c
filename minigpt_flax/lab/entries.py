"""What is to be judged, read from folders: a comparison's, or those of single runs. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.lab.contest import Contest
from minigpt_flax.lab.records import RunRecord, read_run
from minigpt_flax.lab.verdict import Entry


def entries_of(contest: Contest, folder: Path) -> list[Entry]:
    """The contestants of a comparison, with the runs that are there so far."""
    return [
        Entry(
            who.name,
            [read_run(path.parent) for path in sorted((folder / who.folder).glob("*/config.json"))],
            contest.seeds,
            contest.rates(who),
        )
        for who in contest.contestants
    ]


def entries_of_runs(folders: Sequence[Path]) -> list[Entry]:
    """Single runs as contestants: those that differ only in their seed are one.

    Raises:
      UserError: fewer than two contestants, a folder that is no run, or two runs of one contestant with one seed.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in map(read_run, folders):
        groups.setdefault(repr(_without_seed(run)), []).append(run)
    if len(groups) < 2:
        raise UserError(
            "a comparison needs two contestants: these runs differ in their seed alone; name another run's folder"
        )
    names = _names([runs[0] for runs in groups.values()])
    for name, runs in zip(names, groups.values(), strict=True):
        seeds = [run.config.get("seed") for run in runs]
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{name} is given twice with the same seed: name each run once")
    return [Entry(name, runs) for name, runs in zip(names, groups.values(), strict=True)]


def _without_seed(run: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in run.config.items() if name != "seed"}


def _names(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each: the values of the fields in which they differ."""
    fields = sorted({name for run in runs for name in run.config} - {"seed"})
    differing = [f for f in fields if len({repr(run.config.get(f)) for run in runs}) > 1]
    order = sorted(differing, key=lambda f: ("opt", "schedule", "lr").index(f) if f in ("opt", "schedule", "lr") else 9)
    return [
        " ".join(str(run.config.get(f)) if f in ("opt", "schedule") else f"{f} {run.config.get(f)}" for f in order)
        for run in runs
    ]
