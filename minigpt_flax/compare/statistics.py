"""Statistics of a comparison: mean losses, steps to a target, paired significance tests. Imports no JAX.

Candidates are compared over runs with the same seed, which share initial weights and batches, so a paired t-test on
the differences removes the variance between seeds. Every pair of candidates is tested, and Holm's correction (1979)
accounts for the number of tests.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.records import Record, RunRecord
from minigpt_flax.runs.schema import STEP, VAL_LOSS

LEVEL = 0.05  # significance level
TRACK_3 = 0.004  # nats: the third track of modded-nanogpt requires (target - mean) sqrt(n) >= this
SHARED = ("data", "mix", "tokenizer", "steps", "batch_size", "accum", "context")  # fields that losses depend on


@dataclass(frozen=True)
class CandidateRuns:
    """A candidate and its runs, of every learning rate, length and seed.

    Attributes:
      name: the candidate's optimizer and schedule specs.
      runs: finished or not.
      seeds: seeds to compare; empty compares every seed that has a run.
      searched: learning rates tried, ascending.
      search_seed: seed of the runs that selected the learning rate; None if the compared runs selected it.
    """

    name: str
    runs: Sequence[RunRecord]
    seeds: Sequence[int] = ()
    searched: Sequence[float] = ()
    search_seed: int | None = None


@dataclass(frozen=True)
class CandidateResult:
    """The result of a candidate at its best learning rate.

    Attributes:
      name: the candidate's name.
      lr: best peak learning rate.
      edge: ``lowest`` or ``highest`` if ``lr`` is at that end of the rates tried, else empty.
      runs: runs at ``lr``, by seed.
      losses: final validation losses of the finished runs by seed, nats per token.
      mean: mean of ``losses``; None if there are none.
      sem: standard error of the mean over seeds; None for fewer than two seeds.
      steps: steps to the target, mean over seeds; None unless every run reached it.
      seconds: training time to the target, seconds.
      tokens: tokens to the target.
      speedup: the baseline's tokens to the target over this candidate's.
      state_bytes: size of the optimizer state, bytes per parameter.
      ms_per_step: median step time over runs, milliseconds.
      diverged: number of diverged runs at any learning rate.
      diverged_seeds: seeds that diverged at ``lr``.
      unfinished_seeds: seeds without a finished run at ``lr``.
      track_3: whether the mean is below the target by the rule of modded-nanogpt's third track; None without a target.
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
    diverged_seeds: tuple[int, ...]
    unfinished_seeds: tuple[int, ...]
    track_3: bool | None


@dataclass(frozen=True)
class PairedTest:
    """A paired t-test of two candidates over the seeds that both finished.

    Attributes:
      better: name of the candidate with the lower mean loss.
      worse: name of the other candidate.
      difference: difference of the mean losses over these seeds, at least 0, nats per token.
      sem: standard error of the difference.
      seeds: number of seeds.
      p: two-sided p-value before correction; None for fewer than two seeds.
      corrected: p-value after Holm's correction over all pairs.
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
        """Whether the corrected p-value is below ``LEVEL``."""
        return self.corrected is not None and self.corrected < LEVEL


@dataclass(frozen=True)
class Summary:
    """The outcome of a comparison.

    Attributes:
      results: lowest mean loss first; candidates with diverged or unfinished runs last.
      tests: a paired test for every two candidates.
      target: validation loss to reach; None if it is the baseline's final loss with the same seed.
      baseline: name of the candidate that speedups are relative to.
      rates: largest number of learning rates tried for a candidate.
      search_seed: seed of the runs that selected the learning rates; None if the compared runs selected them.
    """

    results: Sequence[CandidateResult]
    tests: Sequence[PairedTest]
    target: float | None
    baseline: str
    rates: int = 1
    search_seed: int | None = None


def summarize(candidates: Sequence[CandidateRuns], target: float | None = None) -> Summary:
    """Computes the results of all candidates and tests every pair.

    Args:
      candidates: the first is the baseline that speedups are relative to.
      target: validation loss to reach; None uses the baseline's final loss with the same seed.

    Raises:
      UserError: the runs differ in their data or length.
    """
    best = [best_runs(candidate) for candidate in candidates]
    check_comparable([run for runs in best for run in runs.values()])
    baseline_losses = final_losses(best[0])
    results = [
        _result_of(candidate, runs, dict.fromkeys(runs, target) if target is not None else baseline_losses, target)
        for candidate, runs in zip(candidates, best, strict=True)
    ]
    results = [_with_speedup(result, results[0]) for result in results]
    tests = holm([_test(a, b) for a, b in combinations(results, 2)])
    order = lambda r: (r.mean is None, bool(r.diverged_seeds or r.unfinished_seeds), r.mean or 0.0)
    rates = max(len(candidate.searched) for candidate in candidates)
    baseline = candidates[0]
    return Summary(sorted(results, key=order), tests, target, baseline.name, rates, baseline.search_seed)


def check_comparable(runs: Sequence[RunRecord]) -> None:
    """Checks that the losses of all runs have the same meaning.

    Raises:
      UserError: two runs differ in one of the ``SHARED`` fields; names it.
    """
    for name in SHARED:
        for run in runs[1:]:
            first, other = (each.data_id if name == "data" else each.config.get(name) for each in (runs[0], run))
            if first != other:
                raise UserError(
                    f"{show(runs[0].path)} and {show(run.path)} differ in {name}: {_shown(runs[0], name)} and "
                    f"{_shown(run, name)}; compare runs of the same data and length"
                )


def _shown(run: RunRecord, name: str) -> str:
    """A field of the configuration; the data with the beginning of their hash, if recorded."""
    if name != "data":
        return repr(run.config.get(name))
    digest = run.data_hash
    sources = run.config.get("data", ())
    named = sources if isinstance(sources, str) else ", ".join(map(show, sources))
    return f"{named} ({digest[:12]})" if digest else named


def best_runs(candidate: CandidateRuns) -> dict[int, RunRecord]:
    """The full-length runs at the best learning rate, by seed.

    The best rate is the one with the most runs; ties go to the fewest unfinished runs, then to the lowest mean loss.
    """
    full = max((run.config["steps"] for run in candidate.runs), default=0)
    by_rate: dict[float, dict[int, RunRecord]] = {}
    for run in candidate.runs:
        if run.config["steps"] == full and (run.config["seed"] in candidate.seeds or not candidate.seeds):
            by_rate.setdefault(run.config["lr"], {})[run.config["seed"]] = run
    if not by_rate:
        return {}

    def order(rate: float) -> tuple[int, int, float, float]:
        losses = final_losses(by_rate[rate])
        mean = statistics.fmean(losses.values()) if losses else math.inf
        return -len(by_rate[rate]), len(by_rate[rate]) - len(losses), mean, rate

    return dict(sorted(by_rate[min(by_rate, key=order)].items()))


def final_losses(runs: Mapping[int, RunRecord]) -> dict[int, float]:
    """Final validation losses of the finished runs, by seed."""
    finished = {seed: run.final for seed, run in runs.items() if run.state == "finished"}
    return {seed: final[VAL_LOSS] for seed, final in finished.items() if final}


def _result_of(
    candidate: CandidateRuns, runs: Mapping[int, RunRecord], targets: Mapping[int, float], target: float | None
) -> CandidateResult:
    losses = final_losses(runs)
    steps = _mean_steps_to(runs, targets)
    times = [run.ms_per_step for run in runs.values() if run.ms_per_step is not None]
    ms = statistics.median(times) if times else None
    any_run = next(iter(runs.values()), None)
    mean = statistics.fmean(losses.values()) if losses else None
    lr = any_run.config["lr"] if any_run else math.nan
    seeds = candidate.seeds or runs
    return CandidateResult(
        name=candidate.name,
        lr=lr,
        edge=edge(lr, candidate.searched),
        runs=runs,
        losses=losses,
        mean=mean,
        sem=sem(list(losses.values())),
        steps=steps,
        seconds=None if steps is None or ms is None else steps * ms / 1000,
        tokens=None if steps is None or any_run is None else steps * any_run.tokens_per_step,
        speedup=None,
        state_bytes=any_run.env.get("state_bytes_per_param") if any_run else None,
        ms_per_step=ms,
        diverged=sum(run.state == "diverged" for run in candidate.runs),
        diverged_seeds=tuple(seed for seed, run in runs.items() if run.state == "diverged"),
        unfinished_seeds=tuple(seed for seed in seeds if seed not in runs or runs[seed].state == "unfinished"),
        track_3=None if target is None or mean is None else (target - mean) * math.sqrt(len(losses)) >= TRACK_3,
    )


def _mean_steps_to(runs: Mapping[int, RunRecord], targets: Mapping[int, float]) -> float | None:
    """Mean steps to each seed's target; None unless every run that has a target reached it."""
    steps = [steps_to(run.validations, targets[seed]) for seed, run in runs.items() if seed in targets]
    reached = [s for s in steps if s is not None]
    return statistics.fmean(reached) if reached and len(reached) == len(steps) else None


def _with_speedup(result: CandidateResult, baseline: CandidateResult) -> CandidateResult:
    if result.tokens is None or baseline.tokens is None:
        return result
    return dataclasses.replace(result, speedup=baseline.tokens / result.tokens)


def steps_to(validations: Sequence[Record], target: float) -> float | None:
    """Steps until the validation loss reaches the target, interpolated linearly between validations.

    >>> steps_to([{"step": 10, "val_loss": 3.0}, {"step": 20, "val_loss": 2.0}], 2.25)
    17.5
    """
    if validations and validations[0][VAL_LOSS] <= target:
        return float(validations[0][STEP])
    for before, after in pairwise(validations):
        if after[VAL_LOSS] <= target:
            fraction = (before[VAL_LOSS] - target) / (before[VAL_LOSS] - after[VAL_LOSS])
            return before[STEP] + fraction * (after[STEP] - before[STEP])
    return None


def sem(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def edge(lr: float, searched: Sequence[float]) -> str:
    """The end of the tried learning rates at which the best one lies; empty if it lies between them.

    >>> edge(0.1, [0.01, 0.03, 0.1]), edge(0.1, [0.1])
    ('highest', '')
    """
    if len(searched) < 2 or lr not in (min(searched), max(searched)):
        return ""
    return "lowest" if lr == min(searched) else "highest"


def _test(a: CandidateResult, b: CandidateResult) -> PairedTest:
    seeds = a.losses.keys() & b.losses.keys()
    differences = [a.losses[seed] - b.losses[seed] for seed in sorted(seeds)]
    mean = statistics.fmean(differences) if differences else 0.0
    better, worse = (a, b) if mean <= 0 else (b, a)
    return PairedTest(better.name, worse.name, abs(mean), sem(differences), len(differences), p_value(differences))


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Student's t-test for a mean of 0; None for fewer than two differences.

    >>> round(p_value([0.1, 0.2, 0.3]), 4), p_value([0.0, 0.0]), p_value([0.1])
    (0.0742, 1.0, None)
    """
    error = sem(differences)
    if error is None:
        return None
    mean = statistics.fmean(differences)
    if error == 0:
        return float(mean == 0)
    from scipy.special import stdtr  # CDF of Student's t; importing it takes a third of a second

    return float(2 * stdtr(len(differences) - 1, -abs(mean) / error))


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Corrects p-values for multiple tests, which bounds the family-wise error rate by the level (Holm, 1979)."""
    order = sorted((i for i, test in enumerate(tests) if test.p is not None), key=lambda i: tests[i].p or 0.0)
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * (tests[i].p or 0.0)))
        corrected[i] = highest
    return [dataclasses.replace(test, corrected=corrected.get(i)) for i, test in enumerate(tests)]
