"""Error rate and power of the tests of ``compare``, by simulation: ``python -m benchmarks.verdicts [--sets N]``.

*Error*: all candidates draw their losses from one distribution; a set of losses counts if any candidate "beats" another
after Holm's correction. There are five kinds of noise; under the last, 30 % of the runs diverge. *Survivors*: of two
such candidates, the second one's worst 30 % of runs diverge instead; a set counts if the second one wins. *Power*: the
second of two candidates is better by some standard deviations of its noise.

Each is computed for the plain paired t-test with Holm's correction, which leaves diverged runs out, and for the tests
that ``compare`` uses, against a baseline and over all pairs. Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr
from scipy.stats import rankdata

from benchmarks.results import RESULTS, machine, publish
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.compare.paired_tests import LEVEL, compare_pair

SEEDS, CANDIDATES, SHIFTS, SETS = (3, 5, 10, 12), (2, 5, 12), (1.0, 2.0, 4.0), 2000
POWER_SEEDS = (3, 5, 6, 8, 10)
Losses = Float[np.ndarray, "sets candidates seeds"]  # infinite where a run diverged

NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "t, 3 degrees": lambda rng, shape: rng.standard_t(3, shape),
    "log-normal": lambda rng, shape: rng.lognormal(0, 1, shape),
    "jumps": lambda rng, shape: rng.normal(0, 0.05, shape) + (rng.random(shape) < 0.25),
    "30 % diverge": lambda rng, shape: np.where(rng.random(shape) < 0.3, np.inf, rng.normal(0, 1, shape)),
}
DEVIATIONS = {"normal": 1.0, "t, 3 degrees": 3**0.5, "log-normal": 2.1612, "jumps": 0.4359}  # of the noise
WORST = 0.5244  # 70 % quantile of the normal distribution


def differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences of losses; 0 where both runs diverged."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def paired_t(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P of the paired t-test over the seeds that both finished; 1 for fewer than two.

    Args:
      a: float[sets, seeds].
      b: the same of the other candidate.
    """
    finished = np.isfinite(a) & np.isfinite(b)
    count, values = finished.sum(-1), np.where(finished, differences(a, b), 0.0)
    mean = values.sum(-1) / np.maximum(count, 1)
    variance = (finished * (values - mean[:, None]) ** 2).sum(-1) / np.maximum(count - 1, 1)
    t = np.abs(mean) / np.sqrt(np.maximum(variance, 1e-300) / np.maximum(count, 1))
    return np.where(count > 1, 2 * stdtr(np.maximum(count - 1, 1), -t), 1.0)


def compared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P of the tests of ``compare``, for many sets at once; see :func:`paired_t`."""
    values = differences(a, b)
    ranks = np.where(values == 0, 0.0, rankdata(np.abs(values), axis=-1) - (values == 0).sum(-1, keepdims=True))
    signs = np.array(list(product((-1, 1), repeat=a.shape[-1]))).T
    observed = np.abs((np.sign(values) * ranks).sum(-1, keepdims=True))
    ranked = (np.abs(ranks @ signs) >= observed - 1e-9).mean(-1)
    return np.where(np.isfinite(a + b).all(-1), np.maximum(ranked, paired_t(a, b)), ranked)


def check(sets: int = 20) -> None:
    """Checks that ``compared`` equals the test of the package."""
    for draw in NOISE.values():
        for seeds in SEEDS:
            a, b = draw(np.random.default_rng(0), (2, sets, seeds))
            found = [
                compare_pair("", dict(enumerate(x)), "", dict(enumerate(y)), 0.0).p or 0.0
                for x, y in zip(a, b, strict=True)
            ]
            np.testing.assert_allclose(compared(a, b), found, rtol=1e-9)


def any_significant(losses: Losses, test: Callable, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Whether the smallest p of each set is at most the level after Holm's correction: bool[sets]."""
    p = np.stack([test(losses[:, i], losses[:, j]) for i, j in pairs])
    return p.min(0) * len(pairs) <= LEVEL


def errors(sets: int) -> list[dict[str, Any]]:
    """Family-wise error rate of each test, by noise, seeds and candidates."""
    rows = []
    for noise, draw in NOISE.items():
        for seeds in SEEDS:
            for count in CANDIDATES:
                rng = np.random.default_rng([seeds, count])
                losses = draw(rng, (sets, count, seeds))
                baseline, pairs = [(0, i) for i in range(1, count)], list(combinations(range(count), 2))
                found = {
                    "t, all pairs": any_significant(losses, paired_t, pairs),
                    "compare, all pairs": any_significant(losses, compared, pairs),
                    "compare, baseline": any_significant(losses, compared, baseline),
                }
                rates = {name: round(float(hits.mean()), 4) for name, hits in found.items()}
                rows.append({"noise": noise, "seeds": seeds, "candidates": count, **rates})
                print(rows[-1], flush=True)
    return rows


def survivors(sets: int) -> list[dict[str, Any]]:
    """Share of the sets in which a candidate whose worst runs diverge beats one that ends all of the same runs.

    The t-test takes the lower mean of the runs that are left, ``compare`` the lower sum of ranks.
    """
    rows = []
    for seeds in SEEDS:
        a, b = np.random.default_rng(seeds).normal(0, 1, (2, sets, seeds))
        b = np.where(b > WORST, np.inf, b)
        lower = np.where(np.isfinite(b), b - a, 0).sum(-1) < 0
        fewer = np.sign(differences(b, a)).sum(-1) < 0
        t, ours = (paired_t(a, b) <= LEVEL) & lower, (compared(a, b) <= LEVEL) & fewer
        rows.append({"seeds": seeds, "t": round(float(t.mean()), 4), "compare": round(float(ours.mean()), 4)})
    return rows


def powers(sets: int) -> list[dict[str, Any]]:
    """Share of the sets in which the better one of two candidates wins, by noise, seeds and difference.

    The difference is in standard deviations of the noise.
    """
    rows = []
    for noise, deviation in DEVIATIONS.items():
        for seeds in POWER_SEEDS:
            for shift in SHIFTS:
                losses = NOISE[noise](np.random.default_rng([seeds, int(shift)]), (sets, 2, seeds))
                losses[:, 1] -= shift * deviation
                found = {name: any_significant(losses, test, [(0, 1)]) for name, test in TESTS.items()}
                rates = {name: round(float(hits.mean()), 4) for name, hits in found.items()}
                rows.append({"noise": noise, "seeds": seeds, "difference": shift, **rates})
    return rows


TESTS = {"t": paired_t, "compare": compared}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run(arguments: list[str]) -> int:
    """Simulates, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.verdicts", description=__doc__)
    sets = f"simulated comparisons of each kind [{SETS}]"
    parser.add_argument("--sets", type=whole, default=SETS, metavar="N", help=sets)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse(arguments)
    before = time.perf_counter()
    check()
    error, diverging, power = (measure(given["sets"]) for measure in (errors, survivors, powers))
    print(f"{time.perf_counter() - before:.0f} s on {machine()}")
    found = {"sets": given["sets"], "error": error, "survivors": diverging, "power": power}
    publish(given["out"], "verdicts", "Error rate and power", "\n\n".join(map(table, (error, diverging, power))), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.verdicts", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
