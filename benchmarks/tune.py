"""Regret of ``tune`` against an exhaustive grid: ``python -m benchmarks.tune [CASE ...]``.

For each case, every setting of the grid trains at full length with five seeds, and every seed searches. The regret of
a result is its mean loss over the four other seeds, above the lowest such mean of the grid. *Grid* is the setting with
the lowest loss of the grid with the seed of the search: the result of an exhaustive search with one seed. The cost is
in full runs.

The tiny cases take minutes on two cores. ``nano`` is AdamW on that preset at 300 steps, which takes hours there.
Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, publish
from benchmarks.search import Losses, Missing
from benchmarks.verdicts import table
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.traced_run import trace_run
from minigpt_flax.errors import check_name
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.tune.search import Search, Setting, everything, spread
from minigpt_flax.tune.tuning import Tuning, check

TINY = {"layers": 1, "heads": 2, "width": 32, "context": 16, "batch_size": 8, "steps": 160}
ADAMW = ("lr=1e-3..1e-1", "weight_decay=0.01,0.1,0.3", "b2=0.9..0.999")
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "adamw": ({**TINY, "opt": "adamw"}, ADAMW),
    "adamw, 80 steps": ({**TINY, "opt": "adamw", "steps": 80}, ADAMW),
    "lion": ({**TINY, "opt": "lion"}, ("lr=1e-4..1e-2", "weight_decay=0.01,0.1,1", "b2=0.9..0.999")),
    "muon": ({**TINY, "opt": "muon"}, ("lr=3e-3..0.3", "beta=0.8..0.99:1-x:4", "warmup=0..0.2:linear:3")),
    "nano": ({"steps": 300, "opt": "adamw"}, ("lr=1e-4..1e-2", "weight_decay=0.01,0.1,0.3", "b2=0.9..0.999")),
}
DEFAULT = tuple(case for case in CASES if case != "nano")
SEEDS = range(5)


class SettingLosses(Losses):
    """Final validation losses of the settings of a case, trained on demand.

    Args:
      case: fields of the configuration.
      over: the keywords to search.
      data: corpus.
    """

    def __init__(self, case: dict[str, Any], over: Sequence[str], data: str):
        self.tuning = check(Tuning("nano", {**case, "data": (data,)}, tuple(over), (0,), 0))
        self.traced = [axis.name for axis in self.tuning.axes if self.tuning.place(axis.name) == "opt"]
        self.config = self.at(spread(self.tuning.axes, 1)[0], self.tuning.steps, 0)
        self.program = trace_run(build(self.config), self.tuning.steps)
        self.known = {}

    def at(self, setting: Setting, steps: int, seed: int) -> RunConfig:
        """The configuration of a run."""
        return self.tuning.config(self.tuning.values(setting), steps, seed, self.traced)

    def full(self, setting: Setting, seeds: Sequence[int]) -> float:
        """Mean loss of full runs."""
        runs = [self.at(setting, self.tuning.steps, seed) for seed in seeds]
        self.train(runs)
        return statistics.fmean(self.known[run] for run in runs)


def searched(losses: SettingLosses, seed: int) -> tuple[Setting, int]:
    """The setting that the search with one seed selects, and the steps of its runs.

    Raises:
      Missing: runs that it needs next.
    """
    paid = 0

    def score(stage: str, settings: Sequence[Setting], steps: int) -> list[float]:
        nonlocal paid
        runs = [losses.at(setting, steps, seed) for setting in settings]
        if missing := [run for run in runs if run not in losses.known]:
            raise Missing(missing)
        paid += steps * len(runs)
        return [losses.known[run] for run in runs]

    return Search(losses.tuning.axes, losses.tuning.plan, score).run(), paid


def picks(losses: SettingLosses) -> list[tuple[Setting, int]]:
    """What each seed selects, and its cost. What all seeds need next is trained together."""
    while True:
        found, needed = [], []
        for seed in SEEDS:
            try:
                found.append(searched(losses, seed))
            except Missing as missing:
                needed += missing.args[0]
        if not needed:
            return found
        for length in sorted({run.steps for run in needed}):
            losses.train([run for run in needed if run.steps == length])


def measure(case: dict[str, Any], over: Sequence[str], data: str) -> dict[str, Any]:
    """Regret and cost of the search, and of an exhaustive one."""
    losses = SettingLosses(case, over, data)
    grid, steps = everything(losses.tuning.axes), losses.tuning.steps
    losses.train([losses.at(setting, steps, seed) for setting in grid for seed in SEEDS])
    values = losses.tuning.values
    searches = []
    for seed, (setting, paid) in zip(SEEDS, picks(losses), strict=True):
        others = [other for other in SEEDS if other != seed]
        means = {one: losses.full(one, others) for one in {*grid, setting}}
        alone = min(grid, key=lambda one, seed=seed: losses.full(one, [seed]))
        least = min(means[one] for one in grid)
        regrets = {"regret": round(means[setting] - least, 4), "regret of the grid": round(means[alone] - least, 4)}
        searches.append({"seed": seed, **values(setting), "cost": round(paid / steps, 2), **regrets})
    losses_of = [[*values(one).values(), *(round(losses.full(one, [seed]), 4) for seed in SEEDS)] for one in grid]
    return {"steps": steps, "settings": len(grid), "searches": searches, "grid": losses_of}


def row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A case as a line of the table."""
    mean = lambda values: round(statistics.fmean(values), 4)
    searches = found["searches"]
    return {
        "case": name,
        "tune": mean(one["regret"] for one in searches),
        "grid": mean(one["regret of the grid"] for one in searches),
        "cost of tune": mean(one["cost"] for one in searches),
        "cost of the grid": found["settings"],
    }


def run(arguments: list[str]) -> int:
    """Measures, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"some of: {'; '.join(CASES)} [all but nano]")
    parser.add_argument("--data", default="pydocs", metavar="SOURCE", help="corpus [pydocs]")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse(arguments)
    found = {}
    for name in given["case"] or DEFAULT:
        before = time.perf_counter()
        found[name] = measure(*CASES[check_name(name, CASES, "case")], given["data"])
        print(f"{name} ({time.perf_counter() - before:.0f} s): {row(name, found[name])}", flush=True)
    rows = [row(name, case) for name, case in found.items()]
    publish(given["out"], "tune", "Regret of tune", table(rows), {"cases": found})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.tune", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
