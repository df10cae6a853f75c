"""Loss of hyperparameters rescaled to another batch size: ``python -m benchmarks.batch_scaling [OPTIMIZER ...]``.

The learning rate is tuned at a batch of 12 sequences, on a grid of half octaves, with two seeds. ``--tuned-at``
predicts the hyperparameters at a batch of 48 for as many tokens. There the grid is trained too: with all other keywords
rescaled, with ``b1`` or ``beta`` as at batch 12, and with all of them as at batch 12. The regret of the prediction is
its loss above the lowest of these grids.

The model is ``nano`` with two layers of width 64. It takes about ten minutes on two cores. Figures go to
``benchmarks/results/<machine>.json``; runs that are there aren't trained again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax

from benchmarks.results import RESULTS, load, machine, publish
from jaxopt_mini.scaling import SCALING_RULES
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.comparison import ALONE
from minigpt_flax.compare.traced_run import TracedRun, trace_run
from minigpt_flax.spec import Spec, settings
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.registry import REGISTRIES

SIZES = {"layers": 2, "width": 64, "heads": 2}
SMALL, LARGE = {"batch_size": 12, "steps": 200}, {"batch_size": 48, "steps": 50}
TUNED_AT = "batch=12,steps=200"
OCTAVES = {"adamw": (-9, -6), "lion": (-12, -9), "muon": (-7, -4), "momentum": (-4, -1)}  # of the grid at batch 12
MOMENTUM = ("b1", "beta")
SEEDS = (0, 1)
SECTION = "batch scaling"


class Losses:
    """Final validation losses of runs, trained on demand; runs of one optimizer and batch size share a program.

    Args:
      known: losses by the name of a run; a trained run is added.
    """

    def __init__(self, known: dict[str, float]):
        self.known, self.programs = known, dict[tuple, TracedRun]()

    def mean(self, config: RunConfig) -> float:
        """Mean loss over the seeds."""
        return statistics.fmean(self.one(dataclasses.replace(config, seed=seed)) for seed in SEEDS)

    def one(self, config: RunConfig) -> float:
        """Loss of one run; infinite if it diverged."""
        name = f"{config.opt}, lr {config.lr:.5g}, batch {config.batch_size}, seed {config.seed}"
        if name not in self.known:
            self.known[name] = self._train(with_points(config))
            print(f"{name}: {self.known[name]:.4f}", flush=True)
        return self.known[name]

    def _train(self, config: RunConfig) -> float:
        key = (config.opt.name, config.batch_size)
        if key not in self.programs:
            self.programs[key] = trace_run(build(config), config.steps)
        run = self.programs[key].single(config)
        state = run.init()
        for t in range(config.steps):
            state, _ = run.step(state, run.batches(t))
        loss = float(jax.device_get(run.evaluate(state.evaluation_params)["val_loss"]))
        return loss if math.isfinite(loss) else math.inf


def with_points(config: RunConfig) -> RunConfig:
    """The configuration with numbers of the optimizer as values that vary, so that they are no constants."""
    keywords = {key: [(0, value)] if isinstance(value, float) else value for key, value in config.opt.keywords.items()}
    return dataclasses.replace(config, opt=dataclasses.replace(config.opt, keywords=keywords))


def config_of(opt: str, sizes: dict[str, Any], rate: float, **more: Any) -> RunConfig:
    """The configuration of a run."""
    return resolve({**SIZES, **sizes, **ALONE, "opt": opt, "lr": rate, **more}, "nano")


def grid(low: int, high: int, shift: float = 0.0) -> list[float]:
    """Learning rates at half octaves."""
    return [2 ** (low + i / 2 + shift) for i in range(2 * (high - low) + 1)]


def with_keywords(config: RunConfig, other: Spec, names: Iterable[str]) -> RunConfig:
    """The configuration with some keywords of another spec."""
    known = {key: other.keywords[key] for key in names}
    return dataclasses.replace(config, opt=dataclasses.replace(config.opt, keywords=config.opt.keywords | known))


def measure(opt: str, losses: Losses) -> dict[str, Any]:
    """Tunes at the small batch, predicts, and tunes at the large batch."""
    low, high = OCTAVES[opt]
    small = {rate: losses.mean(complete(config_of(opt, SMALL, rate))) for rate in grid(low, high)}
    best = min(small, key=lambda rate: small[rate])
    predicted = config_of(opt, LARGE, best, tuned_at=TUNED_AT)
    same = complete(config_of(opt, LARGE, best)).opt
    arms = {
        "rescaled": predicted,
        "momentum kept": with_keywords(predicted, same, [key for key in MOMENTUM if key in same.keywords]),
        "all kept": with_keywords(predicted, same, same.keywords),
    }
    at_prediction = {arm: losses.mean(config) for arm, config in arms.items()}
    unchanged = losses.mean(dataclasses.replace(arms["all kept"], lr=best))
    rates = grid(low, high, 0.5)
    large = {
        arm: {rate: losses.mean(dataclasses.replace(config, lr=rate)) for rate in rates} for arm, config in arms.items()
    }
    tuned, arm, rate = min((loss, arm, rate) for arm, found in large.items() for rate, loss in found.items())
    return {
        "small": {"lr": best, "loss": small[best], "grid": _rounded(small)},
        "predicted": {"lr": predicted.lr, "opt": str(predicted.opt), **at_prediction},
        "unchanged": unchanged,
        "tuned": {"lr": rate, "keywords": arm, "loss": tuned, "grids": {a: _rounded(g) for a, g in large.items()}},
        "regret": at_prediction["rescaled"] - tuned,
        "regret, momentum kept": at_prediction["momentum kept"] - tuned,
        "regret, only the learning rate rescaled": at_prediction["all kept"] - tuned,
        "regret, nothing rescaled": unchanged - tuned,
    }


def complete(config: RunConfig) -> RunConfig:
    """The configuration with every keyword that ``--tuned-at`` may change."""
    same = resolve({**SIZES, **SMALL, **ALONE, "opt": str(config.opt), "tuned_at": "batch=6,steps=400"}, "nano").opt
    known = settings(config.opt, REGISTRIES["optimizer"].row(config.opt))
    keywords = {key: known[key] for key in same.keywords}
    return dataclasses.replace(config, opt=dataclasses.replace(config.opt, keywords=keywords))


def _rounded(found: dict[float, float]) -> dict[str, float]:
    return {f"{rate:.5g}": round(loss, 4) for rate, loss in found.items()}


def rows(found: dict[str, dict[str, Any]]) -> str:
    """A table: a line for each optimizer."""
    lines = [
        f"{'optimizer':10s}{'lr at 12':>10s}{'predicted':>11s}{'tuned':>9s}{'regret':>9s}{'nothing rescaled':>18s}"
    ]
    for opt, one in found.items():
        numbers = one["small"]["lr"], one["predicted"]["lr"], one["tuned"]["lr"]
        shown = "".join(f"{number:>{width}.3g}" for number, width in zip(numbers, (10, 11, 9), strict=True))
        lines.append(f"{opt:10s}{shown}{one['regret']:>9.4f}{one['regret, nothing rescaled']:>18.4f}")
    return "\n".join(lines)


def run(arguments: list[str]) -> int:
    """Measures the optimizers that are named."""
    parser = Parser(prog="python -m benchmarks.batch_scaling", description=__doc__)
    parser.add_argument("optimizers", metavar="OPTIMIZER", nargs="*", help=f"of: {', '.join(OCTAVES)} [adamw]")
    wanted = parser.parse(arguments)["optimizers"] or ["adamw"]
    before = load(RESULTS / f"{machine()}.json").get(SECTION, {})
    results, known = before.get("results", {}), before.get("losses", {})
    started = time.process_time()
    for opt in wanted:
        results[opt] = {**measure(opt, Losses(known)), "rule": SCALING_RULES[opt].evidence}
        publish(
            RESULTS,
            SECTION,
            "regret of the hyperparameters predicted for batch 48, nats per token",
            rows(results),
            {
                "sizes": SIZES,
                "tuned_at": TUNED_AT,
                "run": LARGE,
                "seeds": len(SEEDS),
                "results": results,
                "losses": known,
            },
        )
        print(f"{time.process_time() - started:.0f} s of CPU")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.batch_scaling", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
