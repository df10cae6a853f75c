"""Loss of hyperparameters rescaled to another batch size: ``python -m benchmarks.batch_scaling [OPTIMIZER ...]``.

The learning rate is tuned at a batch of 12 sequences and 1000 steps, on a grid of half octaves, with two seeds.
``--tuned-at`` predicts the hyperparameters at batch 48: for as many tokens, or with ``--case "as many steps"`` for as
many steps. There the grid is trained too, with all other numbers rescaled, and with all of them as at batch 12; it
extends while its best rate is at an end. The regret of the prediction is its loss above the lowest of these grids.
Others scale momentum too, leave the warm-up a fraction of the run, rescale the learning rate only, everything but the
learning rate, or nothing.

The model is ``nano`` with two layers of width 64. The first case takes about ten minutes on two cores. Figures go to
``benchmarks/results/<machine>.json``; runs that are there aren't trained again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
import time
from typing import Any

import jax

from benchmarks.results import RESULTS, load, machine, publish
from jaxopt_mini.scaling import SCALING_RULES
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.comparison import ALONE
from minigpt_flax.compare.traced_run import TracedRun, trace_run
from minigpt_flax.spec import settings
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.registry import REGISTRIES

SIZES = {"layers": 2, "width": 64, "heads": 2}
SMALL = {"batch_size": 12, "steps": 1000}
CASES = {"as many tokens": {"batch_size": 48, "steps": 250}, "as many steps": {"batch_size": 48, "steps": 1000}}
MOMENTUM = ("b1", "beta")  # decay rates
TUNED_AT = "batch=12,steps=1000"
OCTAVES = {"adamw": (-9.5, -7), "lion": (-12, -10), "muon": (-7, -5), "momentum": (-4, -2)}  # first and last of a grid
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
        sizes = f"batch {config.batch_size}, {config.steps} steps"
        warmup = config.schedule.keywords["warmup"]
        name = f"{config.opt}, lr {config.lr:.5g}, warmup {warmup:.3g}, {sizes}, seed {config.seed}"
        if name not in self.known:
            self.known[name] = self._train(with_points(config))
            print(f"{name}: {self.known[name]:.4f}", flush=True)
        return self.known[name]

    def _train(self, config: RunConfig) -> float:
        key = (config.opt.name, *config.opt.keywords, str(config.schedule), config.batch_size, config.steps)
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


def tuned(losses: Losses, config: RunConfig) -> dict[float, float]:
    """Losses at the learning rates of the grid, by rate; it extends while the best one is at an end."""
    low, high = OCTAVES[config.opt.name]
    exponents = [low + i / 2 for i in range(int(2 * (high - low)) + 1)]
    found = {2**x: losses.mean(dataclasses.replace(config, lr=2**x)) for x in exponents}
    while (best := min(found, key=lambda rate: found[rate])) in (min(found), max(found)):
        rate = best * 2 ** (0.5 if best == max(found) else -0.5)
        found[rate] = losses.mean(dataclasses.replace(config, lr=rate))
    return dict(sorted(found.items()))


def measure(opt: str, case: str, losses: Losses) -> dict[str, Any]:
    """Tunes at the small batch, and predicts for the large one."""
    config = complete(config_of(opt, SMALL, 1.0))
    small = tuned(losses, config)
    best = min(small, key=lambda rate: small[rate])
    found = predict(opt, best, CASES[case], losses)
    return {"small": {"lr": best, "loss": small[best], "grid": _rounded(small)}, case: found}


def predict(opt: str, best: float, sizes: dict[str, Any], losses: Losses) -> dict[str, Any]:
    """Losses of the predictions for a run of these sizes, and of the grids there."""
    predicted = config_of(opt, sizes, best, tuned_at=TUNED_AT)
    same = complete(config_of(opt, sizes, best))
    predictions = {
        "rescaled": predicted,
        "momentum rescaled too": with_less_momentum(predicted, sizes["batch_size"] / SMALL["batch_size"]),
        "warm-up as at batch 12": dataclasses.replace(predicted, schedule=same.schedule),
        "only the learning rate rescaled": dataclasses.replace(same, lr=predicted.lr),
        "only the learning rate kept": dataclasses.replace(predicted, lr=best),
        "nothing rescaled": same,
    }
    reached = {name: losses.mean(config) for name, config in predictions.items()}
    grids = {"rescaled": tuned(losses, predicted), "as at batch 12": tuned(losses, same)}
    loss, numbers, rate = min((loss, name, rate) for name, grid in grids.items() for rate, loss in grid.items())
    return {
        "predicted": {"lr": predicted.lr, "opt": str(predicted.opt), "schedule": str(predicted.schedule)},
        "tuned": {"lr": rate, "other numbers": numbers, "loss": loss},
        "grids": {name: _rounded(grid) for name, grid in grids.items()},
        "regret": {name: found - loss for name, found in reached.items()},
    }


def with_less_momentum(config: RunConfig, batch: float) -> RunConfig:
    """The configuration with decay rates of momentum whose half-life in tokens stays."""
    known = settings(config.opt, REGISTRIES["optimizer"].row(config.opt))
    less = {key: known[key] ** batch for key in MOMENTUM if key in known}
    return dataclasses.replace(config, opt=dataclasses.replace(config.opt, keywords=config.opt.keywords | less))


def complete(config: RunConfig) -> RunConfig:
    """The configuration with every keyword that ``--tuned-at`` may change."""
    same = resolve({**SIZES, **SMALL, **ALONE, "opt": str(config.opt), "tuned_at": "batch=6,steps=2000"}, "nano").opt
    known = settings(config.opt, REGISTRIES["optimizer"].row(config.opt))
    keywords = {key: known[key] for key in same.keywords}
    return dataclasses.replace(config, opt=dataclasses.replace(config.opt, keywords=keywords))


def _rounded(found: dict[float, float]) -> dict[str, float]:
    return {f"{rate:.5g}": round(loss, 4) for rate, loss in found.items()}


def rows(found: dict[str, dict[str, Any]]) -> str:
    """A table: a line for each optimizer and case."""
    lines = [
        f"{'optimizer':10s}{'case':16s}{'lr at 12':>10s}{'predicted':>11s}{'tuned':>9s}{'regret':>9s}{'unchanged':>11s}"
    ]
    for opt, one in found.items():
        for case in (case for case in CASES if case in one):
            there, regret = one[case], one[case]["regret"]
            numbers = one["small"]["lr"], there["predicted"]["lr"], there["tuned"]["lr"]
            shown = "".join(f"{number:>{width}.3g}" for number, width in zip(numbers, (10, 11, 9), strict=True))
            lines.append(f"{opt:10s}{case:16s}{shown}{regret['rescaled']:>9.4f}{regret['nothing rescaled']:>11.4f}")
    return "\n".join(lines)


def run(arguments: list[str]) -> int:
    """Measures the optimizers that are named."""
    parser = Parser(prog="python -m benchmarks.batch_scaling", description=__doc__)
    parser.add_argument("optimizers", metavar="OPTIMIZER", nargs="*", help=f"of: {', '.join(OCTAVES)} [adamw]")
    parser.add_argument("--case", choices=CASES, default=next(iter(CASES)), help=f"{' or '.join(CASES)} [the first]")
    given = parser.parse(arguments)
    wanted, case = given["optimizers"] or ["adamw"], given["case"]
    before = load(RESULTS / f"{machine()}.json").get(SECTION, {})
    results, known = before.get("results", {}), before.get("losses", {})
    started = time.process_time()
    for opt in wanted:
        found = {**measure(opt, case, Losses(known)), "rule": SCALING_RULES[opt].evidence}
        results[opt] = {**results.get(opt, {}), **found}
        publish(
            RESULTS,
            SECTION,
            "regret of the hyperparameters predicted for batch 48, nats per token",
            rows(results),
            {
                "sizes": SIZES,
                "tuned_at": TUNED_AT,
                "cases": CASES,
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
