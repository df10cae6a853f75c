"""Paired tests of two candidates, corrected for their number, and 95 % intervals. Imports no JAX.

A test's p-value is the larger one of two. Wilcoxon's signed-rank test (1945) is exact for every distribution of the
noise, and takes a diverged run as the worst outcome. Student's t-test needs normal noise; it keeps the p-value in
agreement with the interval of the mean difference. The signed-rank test can't fall below ``2 / 2**n`` with n seeds, so
a verdict takes at least six.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05  # significance level
POWER = 0.8  # probability to detect a difference that the seeds resolve
RESOLUTION = 1e-4  # nats per token: the last digit printed
EXACT = 200  # nonzero differences up to which the distribution of the signed-rank statistic is computed exactly


@dataclass(frozen=True)
class PairedTest:
    """A paired test of two candidates over the seeds that ended for both.

    Attributes:
      better: name of the candidate with the lower loss.
      worse: name of the other candidate.
      difference: mean loss of ``worse`` minus that of ``better`` over the seeds that finished for both, nats per token;
        None without such a seed.
      sem: standard error of the difference; None for fewer than two such seeds.
      seeds: number of seeds that finished or diverged for both.
      p: two-sided p-value before correction; None without a seed.
      corrected: p-value after Holm's correction.
      interval: 95 % t interval of ``difference``; None for fewer than two seeds.
      obstacle: why there is no verdict, whatever the p-value; else empty.
    """

    better: str
    worse: str
    difference: float | None
    sem: float | None
    seeds: int
    p: float | None
    corrected: float | None = None
    interval: tuple[float, float] | None = None
    obstacle: str = ""

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is at most ``LEVEL``, and nothing prevents a verdict."""
        return not self.obstacle and self.corrected is not None and self.corrected <= LEVEL


def compare_pair(
    a: str,
    ours: Mapping[int, float],
    b: str,
    theirs: Mapping[int, float],
    resolution: float,
    obstacle: str = "",
    *,
    level: float = LEVEL,
) -> PairedTest:
    """Tests two candidates.

    Args:
      a: name of the first.
      ours: its losses by seed; infinite for a diverged run.
      b: name of the second.
      theirs: its losses by seed.
      resolution: differences up to this size count as equal.
      obstacle: why there can't be a verdict; else empty.
      level: one minus the coverage of the interval.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    differences = [_difference(ours[seed], theirs[seed]) for seed in seeds]
    finite = [ours[seed] - theirs[seed] for seed in seeds if math.isfinite(ours[seed]) and math.isfinite(theirs[seed])]
    mean = statistics.fmean(finite) if finite else None
    balance, ranked = signed_rank(differences, resolution)
    if len(finite) == len(differences):
        balance, ranked = mean or 0.0, max(ranked, p_value(differences) or 0.0)
    if mean is not None and len(finite) == len(differences) and abs(mean) <= resolution:
        obstacle = obstacle or f"the difference is within the resolution of {resolution:g}"
    better, worse, sign = (a, b, -1) if balance <= 0 else (b, a, 1)
    interval = t_interval([sign * difference for difference in finite], level)
    difference = None if mean is None else sign * mean + 0.0  # no negative zero
    p = ranked if differences else None
    return PairedTest(better, worse, difference, sem(finite), len(seeds), p, None, interval, obstacle)


def _difference(a: float, b: float) -> float:
    """The difference of two losses; 0 if both runs diverged."""
    return 0.0 if a == b else a - b


def signed_rank(differences: Sequence[float], resolution: float = 0.0) -> tuple[float, float]:
    """Wilcoxon's signed-rank test for a distribution that is symmetric about 0.

    Exact for every such distribution, also with ties: given the sizes, all signs are equally likely.

    Args:
      differences: an infinite one has the highest rank.
      resolution: differences up to this size are left out, as they favor neither side.

    Returns:
      The sum of the signed ranks, and the two-sided p-value.

    >>> signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, math.inf])
    (21.0, 0.03125)
    >>> signed_rank([-0.1, 0.2, 0.3])
    (4.0, 0.5)
    """
    import numpy as np

    values = np.array([d for d in differences if abs(d) > resolution])
    sizes = np.abs(values)
    doubled = np.rint(2 * _ranks(sizes)).astype(int) if len(values) else np.zeros(0, int)
    balance = float((np.sign(values) * doubled).sum() / 2)
    if len(values) > EXACT:  # the normal approximation, here accurate to 1e-4
        return balance, math.erfc(abs(balance) / math.sqrt(2 * (doubled**2).sum() / 4))
    chances = np.ones(1)  # of each sum of the doubled ranks with a positive sign
    for rank in doubled:
        padding = np.zeros(rank)
        chances = (np.concatenate([chances, padding]) + np.concatenate([padding, chances])) / 2
    sums = 2 * np.arange(len(chances)) - doubled.sum()  # doubled, signed
    return balance, float(min(1.0, chances[np.abs(sums) >= 2 * abs(balance)].sum()))


def _ranks(sizes):
    """Ranks from 1; equal sizes share the mean of their ranks."""
    import numpy as np

    _, index, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def sem(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of Student's t-test for a mean of 0.

    None for fewer than two differences, and for equal ones, of which t is not defined.

    >>> round(p_value([0.1, 0.2, 0.3]), 4), p_value([0.0, 0.0]), p_value([0.1, 0.1]), p_value([0.1])
    (0.0742, 1.0, None, None)
    """
    error = sem(differences)
    if not error:
        return 1.0 if error == 0 and not any(differences) else None
    from scipy.special import stdtr  # CDF of Student's t; importing it takes a third of a second

    return float(2 * stdtr(len(differences) - 1, -abs(statistics.fmean(differences)) / error))


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean by Student's t with coverage ``1 - level``; None for fewer than two values.

    >>> [round(end, 3) for end in t_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    error = sem(values)
    if error is None:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 1 - level / 2)) * error
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def proportion_interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a probability (Clopper and Pearson, 1934).

    >>> [round(end, 3) for end in proportion_interval(0, 6)]
    [0.0, 0.459]
    """
    from scipy.special import betaincinv

    low = float(betaincinv(count, total - count + 1, 0.025)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
    return low, high


def seeds_needed(tests: int) -> int:
    """Smallest number of seeds with which one of so many tests can be significant.

    >>> [seeds_needed(tests) for tests in (1, 2, 3, 4, 11, 66)]
    [6, 7, 7, 8, 9, 12]
    """
    return math.ceil(math.log2(2 * max(1, tests) / LEVEL))


def resolved(tests: Sequence[PairedTest], seeds: int) -> float | None:
    """Smallest difference that so many seeds detect with probability ``POWER``, from the noise of finished runs.

    Args:
      tests: all of a comparison; those with at least two finished seeds estimate the noise.
      seeds: number of seeds.

    Returns:
      Nats per token; None without an estimate, or if so many seeds can't decide.
    """
    known = [test for test in tests if test.sem is not None and test.seeds > 1]
    if not known or seeds < seeds_needed(len(tests)):
        return None
    from scipy.special import stdtrit

    deviation = math.sqrt(statistics.fmean(test.seeds * (test.sem or 0.0) ** 2 for test in known))
    quantiles = stdtrit(seeds - 1, 1 - LEVEL / 2 / len(tests)) + stdtrit(seeds - 1, POWER)
    return float(quantiles) * deviation / math.sqrt(seeds)


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Corrects p-values for multiple tests, which bounds the family-wise error rate by the level (Holm, 1979).

    A test without a p-value counts too: the family is what was planned.
    """
    order = sorted((i for i, test in enumerate(tests) if test.p is not None), key=lambda i: tests[i].p or 0.0)
    corrected: dict[int, float] = {}
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(tests) - rank) * (tests[i].p or 0.0)))
        corrected[i] = highest
    return [dataclasses.replace(test, corrected=corrected.get(i)) for i, test in enumerate(tests)]
