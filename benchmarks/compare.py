"""Evidence for what ``compare`` says: ``python -m benchmarks.compare [null | together | example ...]``.

*null*: an optimizer against itself. Both candidates are the same, with different seeds, so that they differ by noise
alone. At most 1 in 20 such comparisons is called significant, as the level says; with six seeds, the signed-rank test
calls 1 in 32. The number of them is compared with that of the same losses in a random order, of which no two can
depend on each other by their seeds or by the program that they share.

*together*: learning rates and seeds of one optimizer in one program (``--vmap``) against the same runs one by one:
their losses and their time.

*example*: the comparison that the guide shows, with its curves.

Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reference import with_curves
from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.compare import comparison as comparisons
from minigpt_flax.compare.collect import collect_runs, summarize_comparison
from minigpt_flax.compare.comparison import ALONE, Comparison
from minigpt_flax.compare.paired_tests import LEVEL, RESOLUTION, compare_pair, proportion_interval
from minigpt_flax.compare.runner import run_comparison
from minigpt_flax.compare.traced_run import TracedRun, stack, trace_run
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig, resolve

TINY = {"layers": 1, "heads": 2, "width": 16, "context": 8, "batch_size": 4, "steps": 40, "eval_every": 40, "lr": 0.01}
REPETITIONS, SEEDS, LANES, ORDERS = 200, 6, 240, 20


def null(data: str) -> dict[str, Any]:
    """Comparisons of an optimizer with itself, in the order of their seeds and in random orders."""
    config = resolve({**TINY, "data": data, **ALONE}, "nano")
    losses = train_seeds(trace_run(build(config), config.steps), config, 2 * SEEDS * REPETITIONS)
    p = null_p_values(losses)
    rng = np.random.default_rng(0)
    others = [int((null_p_values(rng.permutation(losses)) <= LEVEL).sum()) for _ in range(ORDERS)]
    found = int((p <= LEVEL).sum())
    return {
        "repetitions": REPETITIONS,
        "seeds": SEEDS,
        "significant": found,
        "share, 95 %": [round(end, 4) for end in proportion_interval(found, REPETITIONS)],
        "significant in random orders, mean": statistics.fmean(others),
        "correlation of consecutive losses": round(float(np.corrcoef(losses[:-1], losses[1:])[0, 1]), 4),
        "its standard error": round(1 / math.sqrt(len(losses)), 4),
        "p": [round(float(value), 4) for value in p],
    }


def null_p_values(losses: np.ndarray) -> np.ndarray:
    """P of the comparison of each six losses with the next six."""
    sets = [[dict(enumerate(half)) for half in both] for both in losses.reshape(-1, 2, SEEDS).tolist()]
    return np.array([compare_pair("one", one, "the same", other, RESOLUTION).p for one, other in sets])


def train_seeds(parts: TracedRun, config: RunConfig, count: int) -> np.ndarray:
    """Final validation losses of so many seeds, some of which train at a time: float[count]."""
    losses = []
    for first in range(0, count, LANES):
        runs = [dataclasses.replace(config, seed=seed) for seed in range(first, min(first + LANES, count))]
        knobs = parts.stacked(runs)
        states = parts.init_many(knobs)
        batches = [parts.single(run).batches for run in runs]
        for t in range(config.steps):
            states, _ = parts.step_many(knobs, states, jnp.stack([batch(t) for batch in batches]))
        for i in range(len(runs)):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], states)
            losses.append(float(parts.run.evaluate(one.evaluation_params)["val_loss"]))
    return np.array(losses)


def side_by_side(data: str, lanes: int, steps: int = 50) -> dict[str, Any]:
    """The first steps of preset ``nano``: half the lanes at twice its rate, each with its own seed.

    The runs are trained together, then one by one. These are steps of the warm-up: at the peak learning rate, two runs
    that differ by one rounding differ by 0.01 after 15 steps.
    """
    base = resolve({"data": data, **ALONE}, "nano")
    configs = [dataclasses.replace(base, seed=i, lr=base.lr * (1 + i % 2)) for i in range(lanes)]
    parts = trace_run(build(base), steps)
    knobs = stack([parts.knobs(config) for config in configs])
    batches = [parts.single(config).batches for config in configs]
    joint, all_at_once = timed(
        parts.init_many(knobs),
        lambda state, t: parts.step_many(knobs, state, jnp.stack([batch(t) for batch in batches])),
        steps,
    )
    apart, one_by_one = [], 0.0
    for config, batch in zip(configs, batches, strict=True):
        own = parts.knobs(config)
        losses, seconds = timed(parts.init(own), lambda s, t, own=own, batch=batch: parts.step(own, s, batch(t)), steps)
        apart.append(losses)
        one_by_one += seconds
    return {
        "preset": "nano",
        "runs": lanes,
        "steps": steps,
        "largest difference of losses": float(np.abs(joint - np.stack(apart, 1)).max()),
        "seconds together": round(all_at_once, 2),
        "seconds one by one": round(one_by_one, 2),
        "ratio": round(all_at_once / one_by_one, 3),
    }


def example(data: str, folder: Path | None = None) -> dict[str, Any]:
    """The results and curves of the guide's comparison.

    Args:
      data: corpus.
      folder: of the comparison, continued if it holds it; None takes a temporary one.
    """
    given = {"steps": 40} if data == "pydocs" else {"steps": 40, "data": (data,)}
    comparison = Comparison("nano", given, ("adamw", "muon", "lion"), (), (), False, tuple(range(7)))
    with tempfile.TemporaryDirectory() as scratch:
        path = folder or Path(scratch) / "example"
        if run_comparison(comparisons.check(comparison), path):
            raise KeyboardInterrupt
        return with_curves(summarize_comparison(comparison, collect_runs(comparison, path)))


def timed(state: Any, step: Any, steps: int) -> tuple[np.ndarray, float]:
    """Losses of so many steps, and the seconds of all but the first, which compiles."""
    losses, start = [], 0.0
    for t in range(steps):
        state, metrics = step(state, t)
        losses.append(np.asarray(jax.device_get(metrics["loss"])))
        if t == 0:
            start = time.perf_counter()
    return np.stack(losses), (time.perf_counter() - start) * steps / (steps - 1)


def measurements(data: str, lanes: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """What can be measured."""
    return {
        "null": lambda: null(data),
        "together": lambda: side_by_side(data, lanes),
        "example": lambda: example(data),
    }


def run(arguments: list[str]) -> int:
    """Measures, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="null, together or example [all]")
    parser.add_argument("--lanes", type=whole, default=4, metavar="N", help="runs trained together [4]")
    parser.add_argument("--data", default="pydocs", metavar="SOURCE", help="corpus [pydocs]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where figures go [the results of this machine]")
    given = parser.parse(arguments)
    known = measurements(given["data"], given["lanes"])
    for name in given["what"] or known:
        if name not in known:
            raise UserError(f"nothing is called {name!r}{nearest(name, known)}: there are {', '.join(known)}")
        before = time.perf_counter()
        found = known[name]()
        print(f"{name} ({time.perf_counter() - before:.0f} s): {found}", flush=True)
        save(given["out"] or RESULTS / f"{machine()}.json", f"compare, {name}", {**environment(), **found})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.compare", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
