"""Regret of ``compare --lr auto``: ``python -m benchmarks.search [CASE ...]``.

For each case, 13 learning rates, a quarter of a decade apart, train at full length with five seeds, and every seed
searches the learning rate. The regret of a search is the mean loss of the five seeds at its rate, above the lowest mean
of the 13. Its cost is in full runs. *Halving* is successive halving as a reference: five rates at a quarter of the
steps, the best two of them at a half. *One of five* is the rate that is best in one full run at each of five.
*Extended* is the search with up to five runs of half of the steps: their grid extends by the rule of the short runs.
The error is the median, over the learning rates, of the standard error of the mean loss.

The search was designed with the first six cases. Its constants were checked with lamb, adafactor and the runs of 80
steps; rmsprop and wsd were only measured. Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.results import RESULTS, publish
from benchmarks.verdicts import table
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.comparison import ALONE, scaled
from minigpt_flax.compare.rate_search import (
    DOUBLINGS,
    FINE,
    LARGEST,
    LONG,
    SHORT,
    TEMPERATURE,
    TYPICAL,
    Score,
    bracket,
    grid,
    loss_range,
    lowest_good,
    open_end,
    search,
    weighted_mean,
)
from minigpt_flax.compare.traced_run import trace_run
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig, resolve

TINY = {"layers": 1, "heads": 2, "width": 32, "context": 16, "batch_size": 8, "steps": 160}
CASES: dict[str, dict[str, Any]] = {
    "adamw": {"opt": "adamw"},
    "muon": {"opt": "muon"},
    "sgd": {"opt": "sgd"},
    "lion": {"opt": "lion"},
    "adamw, 20 steps of warm-up": {"opt": "adamw", "schedule": "warmup_cosine(warmup=20, floor=0.0)"},
    "adamw b2=0.999, half warm-up": {"opt": "adamw(b2=0.999)", "schedule": "warmup_linear(warmup=0.5)"},
    "lamb": {"opt": "lamb"},
    "adafactor": {"opt": "adafactor"},
    "rmsprop": {"opt": "rmsprop"},
    "adamw, wsd": {"opt": "adamw", "schedule": "wsd"},
    "adamw, 80 steps": {"opt": "adamw", "steps": 80},
    "muon, 80 steps": {"opt": "muon", "steps": 80},
}
DESIGN = 6  # cases
SEEDS, LANES = range(5), 25
MOST_LONG = 5  # runs of half of the steps in the extended search


class Losses:
    """Final validation losses of the runs of a case, trained on demand.

    Args:
      case: fields of the configuration.
      data: corpus.
    """

    def __init__(self, case: dict[str, Any], data: str):
        self.config = resolve({**TINY, **case, "data": data, **ALONE}, "nano")
        self.program = trace_run(build(self.config), self.config.steps)
        self.known: dict[RunConfig, float] = {}

    def run(self, rate: float, steps: int, seed: int) -> RunConfig:
        """The configuration of a run."""
        schedule = scaled(self.config.schedule, self.config.steps, steps)
        return dataclasses.replace(self.config, lr=rate, steps=steps, seed=seed, schedule=schedule, eval_every=steps)

    def train(self, runs: Sequence[RunConfig]) -> None:
        """Trains the unknown ones of runs of equal length, some together; the last ones are repeated to fill up."""
        todo = [run for run in dict.fromkeys(runs) if run not in self.known]
        for first in range(0, len(todo), LANES):
            some = todo[first : first + LANES]
            lanes = some + some[-1:] * (LANES - len(some))
            knobs = self.program.stacked(lanes)
            states = self.program.init_many(knobs)
            batches = [self.program.single(lane).batches for lane in lanes]
            for t in range(lanes[0].steps):
                states, _ = self.program.step_many(knobs, states, jnp.stack([batch(t) for batch in batches]))
            for i, lane in enumerate(some):
                one = jax.tree.map(lambda leaf, i=i: leaf[i], states)
                loss = float(self.program.run.evaluate(one.evaluation_params)["val_loss"])
                self.known[lane] = loss if math.isfinite(loss) else math.inf

    def full(self, rate: float) -> list[float]:
        """Losses of full runs."""
        runs = [self.run(rate, self.config.steps, seed) for seed in SEEDS]
        self.train(runs)
        return [self.known[run] for run in runs]

    def mean(self, rate: float) -> float:
        """Mean loss of full runs."""
        return statistics.fmean(self.full(rate))

    def error(self, rates: Sequence[float]) -> float:
        """Median of the standard errors of the mean losses at these learning rates, of those without divergence."""
        finite = [losses for losses in map(self.full, rates) if all(map(math.isfinite, losses))]
        return statistics.median(statistics.stdev(losses) / len(losses) ** 0.5 for losses in finite)


def halving(start: float, steps: int, score: Score) -> float:
    """Successive halving, as a reference; see :func:`search`."""
    rates = grid(start, range(-2, 3))
    two = [rate for _, rate in sorted(zip(score(rates, steps // 4), rates, strict=True))][:2]
    return min(zip(score(two, steps // 2), two, strict=True))[1]


def one_of_five(start: float, steps: int, score: Score) -> float:
    """The best of five full runs, as a reference."""
    rates = grid(start, range(-2, 3))
    return min(zip(score(rates, steps), rates, strict=True))[1]


def extended(start: float, steps: int, score: Score) -> float:
    """The search with a grid of longer runs that extends, as a reference; see :func:`search`."""
    brief = dict(sorted(bracket(start, lambda rates: score(rates, steps // SHORT)).items()))
    short = lowest_good(list(map(math.log10, brief)), list(brief.values()))
    rate = lambda k: float(f"{10 ** (short - TYPICAL * DOUBLINGS + FINE * k):.2g}")
    ends = [-1, 1]
    longer = dict(zip(map(rate, range(-1, 2)), score(list(map(rate, range(-1, 2))), steps // LONG), strict=True))
    while len(longer) < MOST_LONG and (end := open_end(longer)):
        side = end == "highest"
        ends[side] += 1 if side else -1
        longer |= zip([rate(ends[side])], score([rate(ends[side])], steps // LONG), strict=True)
    longer, temperature = dict(sorted(longer.items())), TEMPERATURE * loss_range(list(brief.values()))
    long = weighted_mean(list(map(math.log10, longer)), list(longer.values()), temperature)
    shift = min(max((short - long) / DOUBLINGS, 0.0), LARGEST)
    return float(f"{10 ** (long - shift * math.log2(LONG)):.2g}")


METHODS: dict[str, Callable[[float, int, Score], float]] = {
    "search": search,
    "extended": extended,
    "halving": halving,
    "one of five": one_of_five,
}


class Missing(Exception):
    """Runs that a search needs, and that aren't trained."""


def picks(losses: Losses, method: Callable[[float, int, Score], float]) -> tuple[list[float], float]:
    """The rates that each seed selects, and the mean cost in full runs. What all seeds need is trained together."""
    while True:
        needed: list[RunConfig] = []
        found, steps = [], 0
        for seed in SEEDS:
            try:
                rate, paid = _search(losses, method, seed)
                found, steps = [*found, rate], steps + paid
            except Missing as missing:
                needed += missing.args[0]
        if not needed:
            return found, steps / losses.config.steps / len(SEEDS)
        for length in sorted({run.steps for run in needed}):
            losses.train([run for run in needed if run.steps == length])


def _search(losses: Losses, method: Callable[[float, int, Score], float], seed: int) -> tuple[float, int]:
    """The rate that one seed selects, and the steps of its runs.

    Raises:
      Missing: runs that it needs next.
    """
    paid = 0

    def score(rates: Sequence[float], length: int) -> list[float]:
        nonlocal paid
        runs = [losses.run(rate, length, seed) for rate in rates]
        if missing := [run for run in runs if run not in losses.known]:
            raise Missing(missing)
        paid += length * len(rates)
        return [losses.known[run] for run in runs]

    return method(losses.config.lr, losses.config.steps, score), paid


def measure(case: dict[str, Any], data: str) -> dict[str, Any]:
    """Regret and cost of each method."""
    losses = Losses(case, data)
    start = losses.config.lr
    fine = sorted({float(f"{start * 10 ** (k / 4):.2g}") for k in range(-6, 7)} | set(grid(start, range(-2, 3))))
    losses.train([losses.run(rate, losses.config.steps, seed) for rate in fine for seed in SEEDS])
    best = min(map(losses.mean, fine))
    found: dict[str, Any] = {"best": min(fine, key=losses.mean), "loss": round(best, 4)}
    found["error"] = round(losses.error(fine), 4)
    for name, method in METHODS.items():
        rates, cost = picks(losses, method)
        regrets = [round(losses.mean(rate) - best, 4) for rate in rates]
        found[name] = {"rates": rates, "regrets": regrets, "regret": statistics.fmean(regrets), "cost": round(cost, 3)}
    return found


def rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean regrets as a table."""
    lines = [{"case": name, **_row([case])} for name, case in found.items()]
    for name, some in (("mean of the first six", list(CASES)[:DESIGN]), ("mean of the others", list(CASES)[DESIGN:])):
        if known := [found[case] for case in some if case in found]:
            lines.append({"case": name, **_row(known)})
    return lines


def _row(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mean = lambda method, key: statistics.fmean(case[method][key] for case in cases)
    columns = {method: round(mean(method, "regret"), 4) for method in METHODS}
    costs = {f"cost of {method}": round(mean(method, "cost"), 3) for method in ("search", "extended")}
    return {**columns, **costs, "error": round(statistics.fmean(case["error"] for case in cases), 4)}


def run(arguments: list[str]) -> int:
    """Measures, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"some of: {'; '.join(CASES)} [all]")
    parser.add_argument("--data", default="pydocs", metavar="SOURCE", help="corpus [pydocs]")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse(arguments)
    found = {}
    for name in given["case"] or CASES:
        if name not in CASES:
            raise UserError(f"no case is called {name!r}{nearest(name, CASES)}: there are {', '.join(CASES)}")
        before = time.perf_counter()
        found[name] = measure(CASES[name], given["data"])
        print(f"{name} ({time.perf_counter() - before:.0f} s): {found[name]}", flush=True)
    publish(given["out"], "search", "Regret of the search", table(rows(found)), {"cases": found})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.search", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
