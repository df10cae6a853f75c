"""Who won, and whether that is more than noise: the runs of a comparison to numbers. Imports no JAX.

Contestants meet in pairs of runs with the same seed, that is the same initial weights and batches, so that a t-test on
the differences sees the optimizers' effect without the seeds'. All pairs of contestants are tested, and Holm's
correction (1979) pays for looking at so many.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.records import Record, RunRecord

LEVEL = 0.05  # of significance
TRACK_3 = 0.004  # nats: (target - mean) sqrt(n) must be this much, the rule of modded-nanogpt's third track
SAME = ("data", "mix", "tokenizer", "steps", "batch_size", "accum", "context")  # else losses differ in meaning


@dataclass(frozen=True)
class Entry:
    """A contestant and all its runs: every learning rate, length and seed.

    Attributes:
      name: its words.
      runs: finished or not.
      seeds: that there should be, and that are judged; empty takes whatever is there.
      searched: rates that were tried, from low to high.
      search_seed: of the runs that chose among them; None where the judged runs do.
    """

    name: str
    runs: Sequence[RunRecord]
    seeds: Sequence[int] = ()
    searched: Sequence[float] = ()
    search_seed: int | None = None


@dataclass(frozen=True)
class Standing:
    """What a contestant came to, at its best learning rate.

    Attributes:
      name: its words.
      lr: the best peak learning rate.
      edge: ``lowest`` or ``highest`` if that was the end of those tried, else empty.
      runs: by seed.
      losses: final validation losses by seed, of the finished runs, nats a token.
      mean: of the losses; None without any.
      sem: its standard error over seeds; None of fewer than two.
      steps: to the target, mean over seeds; None unless all reached it.
      seconds: of training to the target.
      tokens: to the target.
      speedup: tokens of the first contestant over these.
      state_bytes: of the optimizer, a parameter.
      ms_per_step: median over runs.
      diverged: runs of any learning rate that broke.
      broken: seeds that broke at the best rate.
      missing: seeds of which there is no finished run yet.
      track_3: by the rule of modded-nanogpt's third track below the target; None without a target.
    """

    name: str
    lr: float
    edge: str
    runs: Mapping[int, RunRecord]
    losses: Mapping[int, float]
    mean: float | None
    sem: float | None
    steps: float | None
    seconds: float | None
    tokens: float | None
    speedup: float | None
    state_bytes: float | None
    ms_per_step: float | None
    diverged: int
    broken: tuple[int, ...]
    missing: tuple[int, ...]
    track_3: bool | None


@dataclass(frozen=True)
class Pair:
    """Two contestants over the seeds that both finished.

    Attributes:
      better: has the lower mean loss.
      worse: the other.
      difference: of the means over these seeds, at least 0, nats a token.
      sem: standard error of the difference.
      seeds: how many.
      p: two-sided, as if this were the only pair; None of fewer than two seeds.
      corrected: p by Holm over all pairs.
    """

    better: str
    worse: str
    difference: float
    sem: float | None
    seeds: int
    p: float | None
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        """Whether noise would hardly do this."""
        return self.corrected is not None and self.corrected < LEVEL


@dataclass(frozen=True)
class Verdict:
    """The whole.

    Attributes:
      standings: the lowest loss first; those with broken or missing runs behind.
      pairs: every two contestants, tested.
      target: validation loss, None where it is what the first contestant reached with the same seed.
      first: name of the contestant that the others' speed is measured by.
      rates: that a contestant tried, at most.
      search_seed: of the runs that chose the rates; None where the judged runs did.
    """

    standings: Sequence[Standing]
    pairs: Sequence[Pair]
    target: float | None
    first: str
    rates: int = 1
    search_seed: int | None = None


def judge(entries: Sequence[Entry], target: float | None = None) -> Verdict:
    """Compares.

    Args:
      entries: the first is what the others' speed is measured by.
      target: validation loss to be reached; None takes what the first one reached with the same seed.

    Raises:
      UserError: runs of different data or length.
    """
    best = [best_runs(entry) for entry in entries]
    same([run for runs in best for run in runs.values()])
    base = final_losses(best[0])
    standings = [
        _standing(entry, runs, dict.fromkeys(runs, target) if target is not None else base, target)
        for entry, runs in zip(entries, best, strict=True)
    ]
    standings = [_with_speedup(standing, standings[0]) for standing in standings]
    pairs = holm([_test(a, b) for a, b in combinations(standings, 2)])
    order = lambda s: (s.mean is None, bool(s.broken or s.missing), s.mean or 0.0)
    rates = max(len(entry.searched) for entry in entries)
    return Verdict(sorted(standings, key=order), pairs, target, entries[0].name, rates, entries[0].search_seed)


def same(runs: Sequence[RunRecord]) -> None:
    """Refuses runs that can't be set beside one another.

    Raises:
      UserError: two differ in their data or length; names the field.
    """
    for name in SAME:
        for run in runs[1:]:
            here, there = (_field(each, name) for each in (runs[0], run))
            if here != there:
                raise UserError(
                    f"{show(runs[0].path)} and {show(run.path)} differ in {name}: {here!r} and {there!r}; "
                    "compare runs of the same data and length"
                )


def _field(run: RunRecord, name: str) -> Any:
    """The data by their hash, where that was kept: one name can stand for two files."""
    known = run.env.get("data", {}).get("sha256") if name == "data" else None
    return f"{run.config.get(name)} ({known[:12]})" if known else run.config.get(name)


def best_runs(entry: Entry) -> dict[int, RunRecord]:
    """The full-length runs of the judged seeds, at the rate with the most and, of such, the lowest mean loss."""
    full = max((run.config["steps"] for run in entry.runs), default=0)
    by_rate: dict[float, dict[int, RunRecord]] = {}
    for run in entry.runs:
        if run.config["steps"] == full and (run.config["seed"] in entry.seeds or not entry.seeds):
            by_rate.setdefault(run.config["lr"], {})[run.config["seed"]] = run
    if not by_rate:
        return {}

    def order(rate: float) -> tuple[int, int, float, float]:
        losses = final_losses(by_rate[rate])
        mean = statistics.fmean(losses.values()) if losses else math.inf
        return -len(by_rate[rate]), len(by_rate[rate]) - len(losses), mean, rate

    return dict(sorted(by_rate[min(by_rate, key=order)].items()))


def final_losses(runs: Mapping[int, RunRecord]) -> dict[int, float]:
    """Final validation losses of the finished ones, by seed."""
    done = {seed: run.final for seed, run in runs.items() if run.state == "finished"}
    return {seed: final["val_loss"] for seed, final in done.items() if final}


def _standing(
    entry: Entry, runs: Mapping[int, RunRecord], targets: Mapping[int, float], target: float | None
) -> Standing:
    losses = final_losses(runs)
    steps = [steps_to(run.validations, targets[seed]) for seed, run in runs.items() if seed in targets]
    whole = [s for s in steps if s is not None]
    reached = statistics.fmean(whole) if whole and len(whole) == len(steps) else None
    pace = [run.ms_per_step for run in runs.values() if run.ms_per_step is not None]
    ms = statistics.median(pace) if pace else None
    any_run = next(iter(runs.values()), None)
    mean = statistics.fmean(losses.values()) if losses else None
    lr = any_run.config["lr"] if any_run else math.nan
    return Standing(
        name=entry.name,
        lr=lr,
        edge=edge(lr, entry.searched),
        runs=runs,
        losses=losses,
        mean=mean,
        sem=sem(list(losses.values())),
        steps=reached,
        seconds=None if reached is None or ms is None else reached * ms / 1000,
        tokens=None if reached is None or any_run is None else reached * any_run.tokens_per_step,
        speedup=None,
        state_bytes=any_run.env.get("state_bytes_per_param") if any_run else None,
        ms_per_step=ms,
        diverged=sum(run.state == "diverged" for run in entry.runs),
        broken=tuple(seed for seed, run in runs.items() if run.state == "diverged"),
        missing=tuple(seed for seed in (entry.seeds or runs) if seed not in runs or runs[seed].state == "unfinished"),
        track_3=None if target is None or mean is None else (target - mean) * math.sqrt(len(losses)) >= TRACK_3,
    )


def _with_speedup(standing: Standing, first: Standing) -> Standing:
    if standing.tokens is None or first.tokens is None:
        return standing
    return dataclasses.replace(standing, speedup=first.tokens / standing.tokens)


def steps_to(validations: Sequence[Record], target: float) -> float | None:
    """Steps until the validation loss is down to the target, between two validations by a straight line.

    >>> steps_to([{"step": 10, "val_loss": 3.0}, {"step": 20, "val_loss": 2.0}], 2.25)
    17.5
    """
    if validations and validations[0]["val_loss"] <= target:
        return float(validations[0]["step"])
    for before, after in pairwise(validations):
        if after["val_loss"] <= target:
            share = (before["val_loss"] - target) / (before["val_loss"] - after["val_loss"])
            return before["step"] + share * (after["step"] - before["step"])
    return None


def sem(values: Sequence[float]) -> float | None:
    """Standard error of a mean; None of fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def edge(lr: float, searched: Sequence[float]) -> str:
    """Which end of the rates tried the best one is.

    >>> edge(0.1, [0.01, 0.03, 0.1]), edge(0.1, [0.1])
    ('highest', '')
    """
    if len(searched) < 2 or lr not in (min(searched), max(searched)):
        return ""
    return "lowest" if lr == min(searched) else "highest"


def _test(a: Standing, b: Standing) -> Pair:
    seeds = a.losses.keys() & b.losses.keys()
    differences = [a.losses[seed] - b.losses[seed] for seed in sorted(seeds)]
    mean = statistics.fmean(differences) if differences else 0.0
    better, worse = (a, b) if mean <= 0 else (b, a)
    return Pair(better.name, worse.name, abs(mean), sem(differences), len(differences), p_value(differences))


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's t-test that their mean is 0; None of fewer than two.

    >>> round(p_value([0.1, 0.2, 0.3]), 4), p_value([0.0, 0.0]), p_value([0.1])
    (0.0742, 1.0, None)
    """
    error = sem(differences)
    if error is None:
        return None
    mean = statistics.fmean(differences)
    if error == 0:
        return float(mean == 0)
    from scipy.special import stdtr  # Student's distribution function; takes a third of a second to import

    return float(2 * stdtr(len(differences) - 1, -abs(mean) / error))


def holm(pairs: Sequence[Pair]) -> list[Pair]:
    """Corrects p-values of tests made together: the risk of any false alarm stays at the level (Holm, 1979)."""
    known = sorted((i for i, pair in enumerate(pairs) if pair.p is not None), key=lambda i: pairs[i].p or 0.0)
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, i in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * (pairs[i].p or 0.0)))
        corrected[i] = highest
    return [dataclasses.replace(pair, corrected=corrected.get(i)) for i, pair in enumerate(pairs)]
