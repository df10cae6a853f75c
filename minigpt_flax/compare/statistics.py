"""Statistics of a comparison: mean losses, steps to a target, paired significance tests. Imports no JAX.

Candidates are compared over runs with the same seed, which removes the variance between seeds; ``paired_tests`` has the
tests. Which tests there are depends on the planned candidates alone, never on the runs that have ended, and Holm's
correction (1979) accounts for their number.
"""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from minigpt_flax.compare.paired_tests import (
    RESOLUTION,
    PairedTest,
    compare_pair,
    holm,
    proportion_interval,
    sem,
    t_interval,
)
from minigpt_flax.compare.sequential import compare_at_looks
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.runs.records import Record, RunRecord
from minigpt_flax.runs.schema import STEP, VAL_LOSS

TRACK_3 = 0.004  # nats: the third track of modded-nanogpt requires (target - mean) sqrt(n) >= this
CONSTANTS = frozenset({"lr", "schedule", "seed", "steps", "eval_every", "log_every", "keep_every"})
FRACTION = re.compile(r"\w+=[-+]?\d*(?:\.\d*(?:e[-+]?\d+)?|e[-+]?\d+)(?:, )?")  # a hyperparameter such as b2=0.99
SHARED = ("data", "mix", "tokenizer", "context")  # fields that the meaning of a validation loss depends on
OPTIMIZER_FIELDS = frozenset(
    {
        "opt",
        "lr",
        "schedule",
        "clip",
        "wrap",
        "group",
        "seed",
        "on_nan",
        "explosion",
        "parallel",
        "mesh",
        "eval_every",
        "log_every",
        "keep_every",
        "log",
        "probe",
        "sample_tokens",
    }
)  # change neither initial weights nor batches


@dataclass(frozen=True)
class CandidateRuns:
    """A candidate and its runs, of every learning rate, length and seed.

    Attributes:
      name: the candidate's optimizer and schedule specs.
      runs: finished or not.
      seeds: seeds to compare; empty compares every seed that has a run.
      searched: learning rates tried, ascending.
      search_seed: seed of the runs that selected the learning rate; None if the compared runs selected it.
      end: end of ``searched`` that the search would have continued at; else empty.
    """

    name: str
    runs: Sequence[RunRecord]
    seeds: Sequence[int] = ()
    searched: Sequence[float] = ()
    search_seed: int | None = None
    end: str = ""


@dataclass(frozen=True)
class CandidateResult:
    """The result of a candidate at its best learning rate.

    Attributes:
      name: the candidate's name.
      lr: best peak learning rate.
      edge: ``lowest`` or ``highest`` if the best one may lie beyond that end of the rates tried, else empty.
      runs: runs at ``lr``, by seed.
      losses: final validation losses of the finished runs by seed, nats per token.
      mean: mean of ``losses``; None if there are none.
      sem: standard error of the mean over seeds; None for fewer than two seeds.
      outcomes: the loss that tests use, by seed; infinite for a diverged run, absent for an unfinished one.
      obstacle: why no test of the candidate can give a verdict; else empty.
      steps: steps to the target, mean over seeds; None unless every run reached it.
      seconds: training time to the target, seconds.
      tokens: tokens to the target.
      speedup: the baseline's tokens to the target over this candidate's.
      state_bytes: size of the optimizer state, bytes per parameter.
      ms_per_step: median step time over runs, milliseconds.
      ms_range: step time of the fastest and of the slowest run of the candidates that run the same program,
        milliseconds; None for fewer than two runs.
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
    outcomes: Mapping[int, float]
    obstacle: str
    steps: float | None
    seconds: float | None
    tokens: float | None
    speedup: float | None
    state_bytes: float | None
    ms_per_step: float | None
    ms_range: tuple[float, float] | None
    diverged: int
    diverged_seeds: tuple[int, ...]
    unfinished_seeds: tuple[int, ...]
    track_3: bool | None

    @property
    def spec(self) -> str:
        """The optimizer's complete spec, with the keywords of the preset; empty without a run."""
        return next((run.config["opt"] for run in self.runs.values()), "")

    @property
    def length(self) -> tuple[int, int] | None:
        """Steps of each run, and tokens per step, the mean if they vary; None without a run."""
        run = next(iter(self.runs.values()), None)
        return None if run is None else (run.config["steps"], run.tokens_per_step)

    @property
    def budget(self) -> int | None:
        """Tokens that each run trains on; None without a run."""
        run = next(iter(self.runs.values()), None)
        return None if run is None else tokens_of(run)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t interval of the mean loss; None for fewer than two seeds."""
        return t_interval(list(self.losses.values()))

    @property
    def ended(self) -> int:
        """Number of compared runs that finished or diverged."""
        return len(self.losses) + len(self.diverged_seeds)

    @property
    def diverged_interval(self) -> tuple[float, float]:
        """95 % interval of the probability that a run at ``lr`` diverges."""
        return proportion_interval(len(self.diverged_seeds), self.ended)


@dataclass(frozen=True)
class Summary:
    """The outcome of a comparison.

    Attributes:
      results: lowest mean loss first; candidates with diverged or unfinished runs last.
      tests: of each candidate against the baseline, or of every two candidates.
      target: validation loss to reach; None if it is the baseline's final loss with the same seed.
      baseline: name of the candidate that speedups are relative to.
      rates: largest number of learning rates tried for a candidate.
      search_seed: seed of the runs that selected the learning rates; None if the compared runs selected them.
      resolution: differences up to this size count as equal, nats per token.
      differing: fields, beside the optimizer's, in which compared runs differ; None if their data may differ too.
      selecting: whether the first seed of the compared runs selects learning rates, and isn't tested.
      looks: numbers of tested seeds at which it was decided whether to add seeds; empty if their number was fixed.
    """

    results: Sequence[CandidateResult]
    tests: Sequence[PairedTest]
    target: float | None
    baseline: str
    rates: int = 1
    search_seed: int | None = None
    resolution: float = RESOLUTION
    differing: tuple[str, ...] | None = ()
    selecting: bool = False
    looks: tuple[int, ...] = ()

    @property
    def best(self) -> str | None:
        """Name of the candidate with the lowest mean loss, of those whose runs have all finished.

        None if candidates train on different numbers of tokens.
        """
        if len({result.budget for result in self.results if result.runs}) > 1:
            return None
        whole = [r for r in self.results if r.mean is not None and not r.diverged_seeds and not r.unfinished_seeds]
        return whole[0].name if whole else None

    @property
    def lengths_differ(self) -> bool:
        """Whether candidates differ in their steps or in their tokens per step."""
        return len({result.length for result in self.results if result.runs}) > 1

    def against_baseline(self, name: str) -> PairedTest | None:
        """The test of a candidate against the baseline; None if there is none."""
        return next((test for test in self.tests if {test.better, test.worse} == {name, self.baseline}), None)

    def difference(self, name: str) -> tuple[float | None, tuple[float, float] | None]:
        """A candidate's mean loss minus the baseline's over common seeds, and its 95 % interval; None if not tested."""
        test = self.against_baseline(name)
        if test is None or test.difference is None:
            return None, None
        if test.worse == name or test.interval is None:
            return (test.difference if test.worse == name else -test.difference), test.interval
        low, high = test.interval
        return -test.difference, (-high, -low)


def summarize(
    candidates: Sequence[CandidateRuns],
    target: float | None = None,
    *,
    baseline: str | None = None,
    pairs: bool = False,
    resolution: float = RESOLUTION,
    looks: tuple[int, ...] = (),
    tested: bool = True,
) -> Summary:
    """Computes the results of all candidates, and tests each against the baseline.

    Args:
      candidates: all that are planned, also those without runs.
      target: validation loss to reach; None uses the baseline's final loss with the same seed, if all runs train on the
        same number of tokens.
      baseline: name of the candidate that the tests and speedups are relative to; None takes the first.
      pairs: test every two candidates.
      resolution: differences up to this size count as equal, nats per token.
      looks: numbers of tested seeds at which seeds may be added; empty if their number is fixed.
      tested: whether there are tests.

    Raises:
      UserError: the runs differ in a field of ``SHARED``, or the baseline is no candidate.
    """
    first = find_baseline([candidate.name for candidate in candidates], baseline)
    candidates = _with_common_seeds(candidates)
    best = [best_runs(candidate) for candidate in candidates]
    compared = [run for runs in best for run in runs.values()]
    check_comparable(compared)
    same_budget = len(set(map(tokens_of, compared))) < 2
    baseline_losses = final_losses(best[first]) if same_budget else {}
    results = [
        _result_of(candidate, runs, dict.fromkeys(runs, target) if target is not None else baseline_losses, target, ms)
        for candidate, runs, ms in zip(candidates, best, _ms_ranges(candidates), strict=True)
    ]
    results = [_with_speedup(result, results[first]) for result in results]
    planned = combinations(results, 2) if pairs else [(results[first], r) for r in results if r is not results[first]]
    tests = holm([_test(a, b, resolution, looks) for a, b in planned if tested])
    order = lambda r: (r.mean is None, bool(r.diverged_seeds or r.unfinished_seeds), r.mean or 0.0)
    rates = max(len(candidate.searched) for candidate in candidates)
    search_seed = candidates[first].search_seed
    name, differing = candidates[first].name, _differing(compared)
    selecting = any(map(selects_own_rate, candidates))
    ranked = sorted(results, key=order)
    return Summary(ranked, tests, target, name, rates, search_seed, resolution, differing, selecting, looks)


def find_baseline(names: Sequence[str], baseline: str | None) -> int:
    """The index of the baseline; None is the first candidate.

    Raises:
      UserError: no candidate has this name.
    """
    if baseline is None:
        return 0
    if baseline not in names:
        raise UserError(
            f"--baseline {baseline!r} is no candidate{nearest(baseline, names)}: the candidates are {', '.join(names)}"
        )
    return names.index(baseline)


def _with_common_seeds(candidates: Sequence[CandidateRuns]) -> list[CandidateRuns]:
    """Gives candidates without planned seeds those of all of them: a missing run may be one that diverged."""
    found = sorted({run.config["seed"] for c in candidates if not c.seeds for run in c.runs})
    return [c if c.seeds else dataclasses.replace(c, seeds=tuple(found)) for c in candidates]


def _differing(runs: Sequence[RunRecord]) -> tuple[str, ...] | None:
    """Fields, beside the optimizer's, in which runs differ; None if a run's data or initial weights aren't recorded."""
    if any(run.data_hash is None or run.config.get("init") is not None for run in runs):
        return None
    unchecked = {"data", "tokens_per_step", *OPTIMIZER_FIELDS}
    fields = dict.fromkeys(name for run in runs for name in run.config if name not in unchecked)
    return tuple(name for name in fields if any(run.config.get(name) != runs[0].config.get(name) for run in runs))


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
                    f"{_shown(run, name)}; compare runs of the same data, tokenizer and context length"
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
    by_rate = _by_rate(candidate)
    if not by_rate:
        return {}

    def order(rate: float) -> tuple[int, int, float, float]:
        losses = final_losses(by_rate[rate])
        mean = statistics.fmean(losses.values()) if losses else math.inf
        return -len(by_rate[rate]), len(by_rate[rate]) - len(losses), mean, rate

    return dict(sorted(by_rate[min(by_rate, key=order)].items()))


def _by_rate(candidate: CandidateRuns) -> dict[float, dict[int, RunRecord]]:
    """The full-length runs with a planned seed, by learning rate and seed."""
    full = max((run.config["steps"] for run in candidate.runs), default=0)
    by_rate: dict[float, dict[int, RunRecord]] = {}
    for run in candidate.runs:
        if run.config["steps"] == full and (run.config["seed"] in candidate.seeds or not candidate.seeds):
            by_rate.setdefault(run.config["lr"], {})[run.config["seed"]] = run
    return by_rate


def outcomes(runs: Mapping[Any, RunRecord]) -> dict[Any, float]:
    """Final validation losses by seed, or by another key; infinite for a diverged run, absent for an unfinished one."""
    return final_losses(runs) | {seed: math.inf for seed, run in runs.items() if run.state == "diverged"}


def selects_own_rate(candidate: CandidateRuns) -> bool:
    """Whether the compared runs select the candidate's learning rate."""
    return candidate.search_seed is None and len(candidate.searched) > 1


def judged_runs(candidate: CandidateRuns) -> dict[int, RunRecord]:
    """The runs that tests use.

    If the compared runs select the learning rate, those of the first seed do, and tests use the others: the lowest of
    several noisy means is biased low, more so where the optimum is flat.
    """
    by_rate = _by_rate(candidate)
    if not selects_own_rate(candidate) or not by_rate:
        return best_runs(candidate)
    first = candidate.seeds[0] if candidate.seeds else min(min(runs) for runs in by_rate.values())
    rate = min(by_rate, key=lambda rate: (outcomes(by_rate[rate]).get(first, math.inf), rate))
    return {seed: run for seed, run in sorted(by_rate[rate].items()) if seed != first}


def _obstacle(candidate: CandidateRuns, runs: Mapping[int, RunRecord], judged: Mapping[int, RunRecord]) -> str:
    """Why a candidate's runs can't decide a test; empty if they can."""
    tried = candidate.searched if selects_own_rate(candidate) else {run.config["lr"] for run in judged.values()}
    ended = {rate: outcomes(found) for rate, found in _by_rate(candidate).items()}
    if not runs or any(seed not in ended.get(rate, {}) for rate in tried for seed in candidate.seeds):
        return f"{candidate.name} has unfinished runs"
    if candidate.end:
        return f"the best lr of {candidate.name} is not decided: its search ended at the {candidate.end} one"
    for found, what in ((runs, "is best at"), (judged, "has a first seed that selects")):
        if end := "".join({edge(run.config["lr"], candidate.searched) for run in found.values()}):
            return f"{candidate.name} {what} the {end} lr tried"
    return ""


def final_losses(runs: Mapping[Any, RunRecord]) -> dict[Any, float]:
    """Final validation losses of the finished runs, by seed."""
    finished = {seed: run.final for seed, run in runs.items() if run.state == "finished"}
    return {seed: final[VAL_LOSS] for seed, final in finished.items() if final}


def _program(candidate: CandidateRuns) -> str:
    """What the compiled step depends on, as text: candidates that share it differ in their step time by noise alone.

    Learning rates, schedules and hyperparameters with a fraction are constants of the program.
    """
    config = {k: v for k, v in candidate.runs[0].config.items() if k not in CONSTANTS} if candidate.runs else {}
    return re.sub(r"\(\)|, (?=\))", "", FRACTION.sub("", repr(config)))


def _ms_ranges(candidates: Sequence[CandidateRuns]) -> list[tuple[float, float] | None]:
    """The ``ms_range`` of each candidate, over its runs of any learning rate, length and seed."""
    times: dict[str, list[float]] = {}
    for candidate in candidates:
        ran = [run.ms_per_step for run in candidate.runs if run.ms_per_step is not None]
        times.setdefault(_program(candidate), []).extend(ran)
    spans = {program: (min(ran), max(ran)) if len(ran) > 1 else None for program, ran in times.items()}
    return [spans[_program(candidate)] for candidate in candidates]


def _result_of(
    candidate: CandidateRuns,
    runs: Mapping[int, RunRecord],
    targets: Mapping[int, float],
    target: float | None,
    ms_range: tuple[float, float] | None,
) -> CandidateResult:
    losses, judged = final_losses(runs), judged_runs(candidate)
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
        edge=candidate.end or edge(lr, candidate.searched),
        runs=runs,
        losses=losses,
        mean=mean,
        sem=sem(list(losses.values())),
        outcomes=outcomes(judged),
        obstacle=_obstacle(candidate, runs, judged),
        steps=steps,
        seconds=None if steps is None or ms is None else steps * ms / 1000,
        tokens=None if steps is None or any_run is None else any_run.tokens_after(steps),
        speedup=None,
        state_bytes=any_run.env.get("state_bytes_per_param") if any_run else None,
        ms_per_step=ms,
        ms_range=ms_range,
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


def edge(lr: float, searched: Sequence[float]) -> str:
    """The end of the tried learning rates at which the best one lies; empty if it lies between them.

    >>> edge(0.1, [0.01, 0.03, 0.1]), edge(0.1, [0.1])
    ('highest', '')
    """
    if len(searched) < 2:
        return ""
    return "lowest" if lr <= min(searched) else "highest" if lr >= max(searched) else ""


def _test(a: CandidateResult, b: CandidateResult, resolution: float, looks: tuple[int, ...]) -> PairedTest:
    """The paired test of two candidates, with the reason if it can't give a verdict."""
    obstacle = a.obstacle or b.obstacle or _unequal_budgets(a, b)
    if looks:
        return compare_at_looks(a.name, a.outcomes, b.name, b.outcomes, looks, resolution, obstacle)
    return compare_pair(a.name, a.outcomes, b.name, b.outcomes, resolution, obstacle)


def tokens_of(run: RunRecord) -> int:
    """Tokens that a run trains on."""
    return round(run.tokens_after(run.config["steps"]))


def _unequal_budgets(a: CandidateResult, b: CandidateResult) -> str:
    """The obstacle to a verdict if two candidates train on different numbers of tokens; else empty."""
    if a.budget is None or b.budget is None or a.budget == b.budget:
        return ""
    return f"{a.name} trains on {a.budget:,} tokens and {b.name} on {b.budget:,}"
