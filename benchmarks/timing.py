"""Comparisons: everybody takes turns within one run, as a shared machine is never the same for two runs."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

ROUNDS = 15
WARM_UP = 2


def race(
    candidates: Mapping[str, Callable[[], object]], rounds: int = ROUNDS, *, settled: bool = False
) -> dict[str, list[float]]:
    """Seconds of each candidate's calls, one a round, after rounds that aren't counted.

    Each round has its own order, the same in every run, so that no candidate always follows the same one.

    Args:
      candidates: name -> what does the work and waits for its end.
      rounds: number of counted calls.
      settled: call each once, uncounted, before it is counted. Where a call takes gigabytes, its first one pays for the
        state in which the one before left the memory, as huge pages have to be made out of small ones.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order, shuffle = list(candidates), random.Random(0).shuffle
    for turn in range(WARM_UP + rounds):
        shuffle(order)
        for name in order:
            if settled:
                candidates[name]()
            start = time.perf_counter()
            candidates[name]()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and least of a list.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    {'median': 3.0, 'q1': 2.0, 'q3': 4.0, 'least': 1.0}
    """
    q1, median, q3 = statistics.quantiles(values, method="inclusive") if len(values) > 1 else 3 * list(values)
    return {"median": median, "q1": q1, "q3": q3, "least": min(values)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Spread of our time over theirs, taken round by round: what slows a round slows both.

    >>> ratios([1.0, 10.0, 1.0], [2.0, 20.0, 4.0])["median"]
    0.5
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])
