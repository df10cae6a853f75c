"""Default learning rate of every optimizer: ``python -m benchmarks.rates [--only NAME ...] [--steps N] [--out FILE]``.

Each optimizer trains preset ``nano`` on the default corpus, with everything but the peak learning rate at its default,
at rates a factor of sqrt(10) apart, from a start uphill until the best has a worse one on either side. All have the
same initial weights and batches. ``--per-decade`` asks for rates that lie closer and begins with what was found.

The rates go to ``minigpt_flax/train/rates.json``, which ``train.py`` reads; what each came to goes to
``benchmarks/results/<machine>.json``. A search that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.results import RESULTS, environment, load, machine, save
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.train.build import Run, build, loss_sum
from minigpt_flax.train.cli import Parser, guarded, whole
from minigpt_flax.train.config import RATES, RunConfig, rates, resolve
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.specs import look_up_name
from minigpt_flax.train.state import init_state
from minigpt_flax.train.step import make_step

SECTION = "rates"
STEPS = 150
PER_DECADE = 2
FARTHEST = 2  # decades looked at on either side of the start
LEAD = 5e-3  # nats by which another rate must be better to count as better
USUAL = 1e-3
STARTS = {  # where the search begins: the papers' or the field's usual rates, where they aren't 1e-3
    "sgd": 0.3, "momentum": 1.0, "asgd": 0.3, "polyak_sgd": 1.0, "lars": 1.0, "schedule_free_sgd": 1.0,
    "dog": 1.0, "dowg": 1.0, "prodigy": 1.0, "dadapt_adamw": 1.0, "adadelta": 1.0,
    "adagrad": 0.01, "adafactor": 0.01, "lamb": 0.01, "novograd": 0.01, "sm3": 0.1, "shampoo": 0.01, "galore": 0.01,
    "muon": 0.01, "normuon": 0.01, "dion": 0.01, "scion": 0.01, "lion": 3e-4, "sign_sgd": 3e-4, "signum": 3e-4,
}  # fmt: skip


def trainer(run: Run, config: RunConfig) -> Callable[[float], float]:
    """Compiles an optimizer once; returns peak learning rate -> validation loss, infinite where it breaks."""
    curve, _ = build_optimizer(dataclasses.replace(config, lr=1.0), run.layout)
    params = run.init().params

    def transformation(rate):
        return build_optimizer(config, run.layout, rate=lambda peak: lambda count: rate * curve(count))

    def one(rate, state, batch):
        schedule, tx = transformation(rate)
        return make_step(loss_sum(run.model), tx, schedule, key=jax.random.key(config.seed))(state, batch)

    step = jax.jit(one, donate_argnums=1)
    init = jax.jit(lambda params: init_state(params, transformation(1.0)[1]))

    def train(rate: float) -> float:
        state = init(params)
        for t in range(config.steps):
            state, _ = step(rate, state, run.batches(t))
        loss = run.evaluate(state.evaluation_params)["val_loss"]
        return loss if math.isfinite(loss) else math.inf

    return train


def climb(
    score: Callable[[float], float], start: float, per_decade: int = PER_DECADE
) -> tuple[float, dict[float, float]]:
    """Walks along the rates from ``start`` until the best has a worse one on either side.

    Of equals it takes the lowest, and so it leaves a place where all break: such rates are too high.

    >>> climb(lambda rate: abs(math.log10(rate)), 0.01)[0]
    1.0
    """
    found: dict[int, float] = {}
    best = 0
    while True:
        for k in (best, best - 1, best + 1):
            if k not in found and abs(k) <= FARTHEST * per_decade:
                found[k] = score(nth(start, k, per_decade))
        better = min(found, key=lambda k: (found[k], k))
        if better == best or found[better] > found[best] - LEAD:
            return nth(start, best, per_decade), {nth(start, k, per_decade): found[k] for k in sorted(found)}
        best = better


def nth(start: float, k: int, per_decade: int = PER_DECADE) -> float:
    """The k-th rate after ``start`` among ..., 0.1, 0.3, 1, 3, ...: the same rates from whatever start.

    >>> [nth(3e-4, k) for k in (-1, 0, 1, 2)]
    [0.0001, 0.0003, 0.001, 0.003]
    """
    return float(f"{10 ** ((round(per_decade * math.log10(start)) + k) / per_decade):.1g}")


def write(name: str, rate: float) -> None:
    """Puts a rate into the table."""
    scratch = RATES.with_suffix(".tmp")
    scratch.write_text(json.dumps(dict(sorted({**rates(), name: rate}.items())), indent=2) + "\n", "utf-8")
    os.replace(scratch, RATES)  # whoever reads while the search runs sees a whole table


def keep(path: Path, name: str, steps: int, losses: dict[float, float]) -> None:
    """Puts the losses of an optimizer beside the others', runs of so many steps by themselves."""
    section = f"{SECTION}, {steps} steps"
    record: dict[str, Any] = {f"{k:g}": v if math.isfinite(v) else None for k, v in losses.items()}
    found = load(path).get(section, {}).get("losses", {})
    record = dict(sorted({**found.get(name, {}), **record}.items(), key=lambda item: float(item[0])))
    save(path, section, {**environment(), "losses": {**found, name: record}})


def start_of(name: str, per_decade: int | None) -> float:
    """Where a search begins: a finer one with what the others found."""
    start = STARTS.get(name, USUAL)
    return rates().get(name, start) if per_decade else start


def known(names: list[str] | None) -> list[str]:
    """The names, once they are known to be optimizers'.

    Raises:
      UserError: one isn't.
    """
    return [look_up_name(name, OPTIMIZERS, "optimizer").__name__ for name in names or ()]


def run(arguments: list[str]) -> int:
    """Searches."""
    parser = Parser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these [those without a rate]")
    parser.add_argument("--again", action="store_true", help="those with a rate, too")
    parser.add_argument("--steps", type=whole, default=STEPS, metavar="N", help=f"of a run [{STEPS}]")
    parser.add_argument("--per-decade", type=whole, metavar="N", help=f"rates in a decade [{PER_DECADE}]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the losses go [the results of this machine]")
    given = parser.parse(arguments)
    path = given["out"] or RESULTS / f"{machine()}.json"
    base = build(resolve({"steps": given["steps"]}, "nano"))
    for name in known(given["only"]) or [name for name in OPTIMIZERS if given["again"] or name not in rates()]:
        start, before = start_of(name, given["per_decade"]), time.perf_counter()
        config = resolve({"opt": name, "steps": given["steps"], "lr": start}, "nano")
        rate, losses = climb(trainer(base, config), start, given["per_decade"] or PER_DECADE)
        write(name, rate)
        keep(path, name, given["steps"], losses)
        shown = ", ".join(f"{k:g}: {v:.3f}" for k, v in losses.items())
        print(f"{name:22s}{rate:8g}   {shown}   {time.perf_counter() - before:.0f} s", flush=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.rates", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
