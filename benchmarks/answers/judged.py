"""Settings chosen by some seeds, and compared over others: the search must not flatter what it chose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from minigpt_flax.compare.paired_tests import PairedTest, compare_pair, holm

SEARCH_SEEDS, SEEDS = (100, 101), tuple(range(10))
HALF_DECADE = math.sqrt(10)
EXTENSIONS = 3  # rates that a grid gains at most at each end

HEAD = ["difference", "95 % interval", "p"]  # of the columns of ``columns``


def mean(losses: Sequence[float | None]) -> float:
    """Over seeds; infinite if a run broke."""
    return math.inf if None in losses else statistics.fmean(loss for loss in losses if loss is not None)


def best_rate(rates: Sequence[float], score: Callable[[float], float]) -> tuple[float, bool]:
    """Returns the rate with the lowest score, and whether its neighbors on both sides were tried.

    Args:
      rates: the grid; while its best rate is at one end, a rate half a decade farther is added.
      score: the lower the better.
    """
    scores = {rate: score(rate) for rate in rates}
    for _ in range(EXTENSIONS):
        best = min(scores, key=lambda rate: scores[rate])
        if min(scores) < best < max(scores):
            break
        farther = best / HALF_DECADE if best == min(scores) else best * HALF_DECADE
        farther = float(f"{farther:.2g}")
        scores[farther] = score(farther)
    best = min(scores, key=lambda rate: scores[rate])
    return best, math.isfinite(scores[best]) and min(scores) < best < max(scores)


def against(baseline: str, losses: Mapping[str, Sequence[float | None]]) -> dict[str, PairedTest]:
    """Tests every other candidate against the baseline; p-values are Holm-corrected.

    Args:
      baseline: one of the candidates.
      losses: of every candidate, a loss per seed; None if the run broke.
    """
    by_seed = lambda values: {i: math.inf if loss is None else loss for i, loss in enumerate(values)}
    others = [name for name in losses if name != baseline]
    base = by_seed(losses[baseline])
    return dict(
        zip(others, holm([compare_pair(n, by_seed(losses[n]), baseline, base, 0.0) for n in others]), strict=True)
    )


def difference(name: str, test: PairedTest) -> tuple[str, str]:
    """Mean loss of a candidate minus that of the other one, and its 95 % interval."""
    if test.difference is None or test.interval is None:
        return "-", "-"
    sign = 1 if name == test.worse else -1
    low, high = sorted(sign * end for end in test.interval)
    return f"{sign * test.difference:+.3f}", f"{low:+.3f} to {high:+.3f}"


def p_text(test: PairedTest) -> str:
    """The corrected p-value; bold if it is significant."""
    text = "-" if test.corrected is None else f"{test.corrected:.2g}"
    return f"**{text}**" if test.significant else text


def columns(name: str, test: PairedTest | None) -> list[str]:
    """The cells under ``HEAD``; empty for the baseline itself."""
    return ["", "", ""] if test is None else [*difference(name, test), p_text(test)]
