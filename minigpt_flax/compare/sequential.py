"""Seeds as needed: the rule of ``--seeds auto``, which adds seeds until the tests are decided. Imports no JAX.

The tests are computed at a few planned numbers of seeds, the looks, and the comparison ends at the first look that
decides all of them. Each look spends a share of the level in proportion to the seeds that it adds (alpha spending: Lan
and DeMets, 1983, with the linear function of Kim and DeMets, 1987). The shares sum to one, so that by Bonferroni's
inequality the error rate over all looks is at most the level, whatever the correlation of the looks and the reason to
stop. ``python -m benchmarks.sequential`` simulates the error rate and the seeds that it saves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from minigpt_flax.compare.paired_tests import LEVEL, PairedTest, compare_pair

USUAL_MOST = 20  # per candidate, if --max-seeds isn't given
GROWTH = 1.4  # from one look to the next


def looks(tests: int, most: int) -> tuple[int, ...]:
    """Numbers of tested seeds at which the tests are computed.

    The first is the smallest at which one of the tests can be significant.

    Args:
      tests: number of planned tests.
      most: largest number of seeds, at least :func:`seeds_needed`.

    >>> looks(1, 20), looks(2, 20), looks(11, 40)
    ((7, 10, 14, 20), (8, 11, 15, 20), (11, 15, 21, 29, 40))
    """
    first = next(n for n in range(2, most + 1) if tests * 2 * 0.5**n <= LEVEL * n / most)
    count = max(1, round(math.log(most / first, GROWTH)))
    return tuple(dict.fromkeys(round(first * (most / first) ** (k / count)) for k in range(count + 1)))


def shares(sizes: Sequence[int]) -> list[float]:
    """The share of the level that each look spends.

    >>> shares((7, 10, 14, 20))
    [0.35, 0.15, 0.2, 0.3]
    """
    return [(n - before) / sizes[-1] for before, n in zip((0, *sizes), sizes, strict=False)]


def compare_at_looks(
    a: str,
    ours: Mapping[int, float],
    b: str,
    theirs: Mapping[int, float],
    sizes: Sequence[int],
    resolution: float,
    obstacle: str = "",
) -> PairedTest:
    """Tests two candidates at every look that their seeds reach; see :func:`compare_pair`.

    Returns:
      The test of the last look. Its p-value is the smallest of those divided by the shares of their looks, over the
      looks with the same better candidate. Its interval covers the difference with 95 % simultaneously over the looks.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    spent = [(n, share) for n, share in zip(sizes, shares(sizes), strict=True) if n <= len(seeds)]
    spent = spent or [(sizes[0], shares(sizes)[0])]
    found = []
    for n, share in spent:
        one, other = ({seed: losses[seed] for seed in seeds[:n]} for losses in (ours, theirs))
        test = compare_pair(a, one, b, other, resolution, obstacle, level=LEVEL * share)
        found.append(dataclasses.replace(test, p=None if test.p is None else min(1.0, test.p / share)))
    last = found[-1]
    known = [test.p for test in found if test.p is not None and test.better == last.better]
    return dataclasses.replace(last, p=min(known, default=None))


def is_decided(test: PairedTest, resolution: float) -> bool:
    """Whether more seeds aren't needed: a verdict, none possible, or an interval narrower than the resolution."""
    narrow = test.interval is not None and (test.interval[1] - test.interval[0]) / 2 <= resolution
    return test.significant or bool(test.obstacle) or narrow


def next_look(tests: Sequence[PairedTest], seeds: int, sizes: Sequence[int], resolution: float) -> int | None:
    """The number of tested seeds to continue with; None if all tests are decided, or the budget is spent.

    Args:
      tests: corrected for their number.
      seeds: number of tested seeds so far.
      sizes: of the looks.
      resolution: half the width of an interval that needs no verdict.
    """
    if all(is_decided(test, resolution) for test in tests):
        return None
    return next((n for n in sizes if n > seeds), None)


def sequence(sizes: Sequence[int]) -> str:
    """How the number of seeds was chosen, as a part of a sentence."""
    return f"seeds added as needed, tests at {', '.join(map(str, sizes))}: p and 95 % intervals hold for all of them"
