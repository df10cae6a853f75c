"""Error rate and cost of ``compare --seeds auto``, by simulation: ``python -m benchmarks.sequential [--sets N]``.

*Error*: all candidates draw their losses from one distribution, and seeds are added up to the largest number; a set of
losses counts if any candidate "beats" the baseline at any look, after Holm's correction. *Naive* tests at the same
looks at the whole level. *Seeds*: the second of two candidates is better by some standard deviations of its noise; the
mean number of seeds at which the comparison ends, its power, and the smallest fixed number of seeds with this power.

The kinds of noise are those of ``benchmarks.verdicts``. Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.results import RESULTS, machine, publish
from benchmarks.verdicts import DEVIATIONS, NOISE, SETS, differences, paired_t, table
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.compare.paired_tests import LEVEL, compare_pair, signed_rank
from minigpt_flax.compare.sequential import USUAL_MOST, compare_at_looks, looks, shares

CANDIDATES, MOST, SHIFTS = (2, 5, 12), (USUAL_MOST, 40), (0.5, 0.75, 1.0, 1.5, 2.0)


@functools.cache
def null_tail(count: int) -> np.ndarray:
    """P of each absolute sum of signed ranks, from 0 up, without ties."""
    chances = np.ones(1)  # of each sum of the ranks with a positive sign
    for rank in range(1, count + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    sums = np.abs(2 * np.arange(len(chances)) - (len(chances) - 1))
    return np.array([chances[sums >= size].sum() for size in range(len(chances))])


def compared(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P of the tests of ``compare``, and -1 or 1 if the first or second one is better, for many sets at once.

    Args:
      a: float[sets, seeds].
      b: the same of the other candidate.
    """
    values = differences(a, b)
    zeros = (values == 0).sum(-1)
    ranks = np.where(values == 0, 0.0, rankdata(np.abs(values), axis=-1) - zeros[:, None])
    balance = (np.sign(values) * ranks).sum(-1)
    tied = np.array([len(set(row[row != 0])) < (row != 0).sum() for row in np.abs(values)])
    count = values.shape[-1] - zeros
    ranked = np.array([null_tail(int(n))[int(abs(w))] for n, w in zip(count, np.where(tied, 0, balance), strict=True)])
    ranked[tied] = [signed_rank(list(row))[1] for row in values[tied]]
    finite = np.all(np.isfinite(a + b), axis=-1)
    p = np.where(finite, np.maximum(ranked, paired_t(a, b)), ranked)
    mean = np.where(finite[:, None], values, 0.0).mean(-1)
    return np.minimum(p, 1.0), np.where(np.where(finite, mean, balance) > 0, 1, -1)


def at_looks(a: np.ndarray, b: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """P of each look before it is divided by its share, and the signs: two arrays [sets, looks]."""
    p, signs = zip(*(compared(a[:, :n], b[:, :n]) for n in sizes), strict=True)
    return np.stack(p, 1), np.stack(signs, 1)


def check(sets: int = 10) -> None:
    """Checks that the simulated tests equal those of the package."""
    sizes = looks(1, USUAL_MOST)
    for draw in NOISE.values():
        a, b = draw(np.random.default_rng(0), (2, sets, USUAL_MOST))
        p, signs = at_looks(a, b, sizes)
        spent = np.where(signs == signs[:, -1:], p / np.array(shares(sizes)), 1.0).min(1)
        for x, y, ours, last in zip(a, b, spent, p[:, -1], strict=True):
            one, other = dict(enumerate(x)), dict(enumerate(y))
            test = compare_at_looks("a", one, "b", other, sizes, 0.0)
            np.testing.assert_allclose(min(1.0, ours), test.p or 0.0, rtol=1e-9)
            np.testing.assert_allclose(last, compare_pair("a", one, "b", other, 0.0).p or 0.0, rtol=1e-9)


def errors(sets: int) -> list[dict[str, Any]]:
    """Family-wise error rate by noise, candidates and largest number of seeds."""
    rows = []
    for noise, draw in NOISE.items():
        for count in CANDIDATES:
            for most in MOST:
                sizes = looks(count - 1, most)
                losses = draw(np.random.default_rng([most, count]), (count, sets, most))
                p = np.stack([at_looks(losses[0], other, sizes)[0] for other in losses[1:]])
                hits = {"auto": p / shares(sizes), "naive": p}
                rates = {name: float((x.min((0, 2)) * (count - 1) <= LEVEL).mean()) for name, x in hits.items()}
                rows.append({"noise": noise, "candidates": count, "looks": ", ".join(map(str, sizes)), **rates})
                print(rows[-1], flush=True)
    return rows


def saved(sets: int) -> list[dict[str, Any]]:
    """Mean number of seeds and power, by noise and difference, beside the fixed number with the same power."""
    rows, sizes = [], looks(1, USUAL_MOST)
    for noise, deviation in DEVIATIONS.items():
        for shift in SHIFTS:
            a, b = NOISE[noise](np.random.default_rng([1, int(4 * shift)]), (2, sets, 2 * USUAL_MOST))
            b = b - shift * deviation
            p, signs = at_looks(a, b, sizes)
            hits = p / shares(sizes) <= LEVEL
            ended = np.where(hits.any(1), hits.argmax(1), len(sizes) - 1)
            power = float((hits.any(1) & (signs[np.arange(sets), ended] > 0)).mean())
            fixed = (n for n in range(6, 2 * USUAL_MOST) if (compared(a[:, :n], b[:, :n])[0] <= LEVEL).mean() >= power)
            used = float(np.array(sizes)[ended].mean())
            same = next(fixed)
            share = {"seeds": round(used, 1), "power": power, "fixed": same, "saved": f"{1 - used / same:.0%}"}
            rows.append({"noise": noise, "difference": shift, **share})
            print(rows[-1], flush=True)
    return rows


def run(arguments: list[str]) -> int:
    """Simulates, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.sequential", description=__doc__)
    sets = f"simulated comparisons of each kind [{SETS}]"
    parser.add_argument("--sets", type=whole, default=SETS, metavar="N", help=sets)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse(arguments)
    before = time.perf_counter()
    check()
    error, cost = (measure(given["sets"]) for measure in (errors, saved))
    print(f"{time.perf_counter() - before:.0f} s on {machine()}")
    found = {"sets": given["sets"], "error": error, "seeds": cost}
    publish(given["out"], "sequential", "Error rate and cost", "\n\n".join(map(table, (error, cost))), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.sequential", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
