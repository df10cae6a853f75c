"""Default learning rate of every optimizer: ``python -m benchmarks.rates [SPEC ...] [--at RATE ...] [--out FILE]``.

Each optimizer trains preset ``nano`` on the default corpus, with everything but the peak learning rate at its default,
at rates a factor of sqrt(10) apart, from a start uphill until the best has a worse one on either side; ``--at`` names
the rates instead. Some are tried with other keywords, too, see ``TRIED``. All have the same weights and batches.

The loss of each spec at each rate goes to ``benchmarks/results/<machine>.json``, and the best of what that file holds
for an optimizer to ``minigpt_flax/train/config/default_rates.txt``, which ``train.py`` reads. Nothing is trained twice.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.results import RESULTS, environment, load, machine, save
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, number, whole
from minigpt_flax.errors import check_name
from minigpt_flax.spec import Spec, parse
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RATES, RunConfig, resolve

SECTION = "rates"
STEPS = 300
PER_DECADE = 2
FARTHEST = 2  # decades looked at on either side of the start
LEAD = 5e-3  # nats by which another rate must be better to count as better
USUAL = 1e-3
TRIED = """
sgd(lr=0.3) momentum(lr=1.0) asgd(lr=0.3) polyak_sgd(lr=1.0) lars(lr=1.0) schedule_free_sgd(lr=1.0)
dog(lr=1.0) dowg(lr=1.0) prodigy(lr=1.0) dadapt_adamw(lr=1.0) adadelta(lr=1.0)
adagrad(lr=0.01) adafactor(lr=0.01) lamb(lr=0.01) novograd(lr=0.01) sm3(lr=0.1) shampoo(lr=0.01) galore(lr=0.01)
muon(lr=0.01) normuon(lr=0.01) dion(lr=0.01) scion(lr=0.01) lion(lr=3e-4) sign_sgd(lr=3e-4) signum(lr=3e-4)
adamw(b2=0.99,weight_decay=0.1,lr=3e-3) rmsprop(decay=0.99,bias_correction=True,momentum=0.9,lr=3e-4)
came(b2=0.95,b3=0.95,lr=1e-3) yogi(b2=0.99,eps=1e-8,initial_accumulator_value=0.0,lr=3e-3)
simplified_ademamix(b1=0.9,b2=0.99,lr=2e-4) prodigy(betas=(0.9,0.99),lr=1.0)
sophia(b1=0.8,eps=1e-5,update_interval=5,lr=6e-4)
sm3(b2=0.5,lr=3e-3) adagrad(initial_accumulator_value=1e-4,lr=0.03) adadelta(rho=0.95,lr=1.0)
novograd(b1=0.8,b2=0.1,lr=0.03) kron(precond_lr=0.5,lr=3e-3) adan(b1=0.9,b2=0.9,b3=0.95,lr=6e-3)
"""
"""Specs with the rate that a search begins at, where that isn't ``USUAL``: from the papers, or customary. An optimizer
is also tried with keywords whose defaults are for longer runs (memories of 1000 steps and more), or for larger
gradients than a language model's, clipped to norm 1 (``eps``, what sums start from)."""


def tried() -> dict[str, Spec]:
    """What is searched where nothing is named: spec without its rate -> the spec with the rate to begin at."""
    specs = [parse(text, "optimizer") for text in TRIED.split()]
    plain = {name: Spec(name, (), {"lr": USUAL}) for name in OPTIMIZERS}
    return plain | {str(spec.without("lr")): spec for spec in specs}


def train(config: RunConfig) -> float:
    """Trains; returns the validation loss, infinite if training diverges."""
    run = build(config)
    state = run.init()
    for t in range(config.steps):
        state, _ = run.step(state, run.batches(t))
    loss = run.evaluate(state.evaluation_params)["val_loss"]
    return loss if math.isfinite(loss) else math.inf


def climb(score: Callable[[float], float], start: float) -> dict[float, float]:
    """Walks along the rates from ``start`` until the best has a worse one on either side; returns all scores.

    Of equals it takes the lowest, and so it leaves a region where all diverge: such rates are too high.

    >>> list(climb(lambda rate: abs(math.log10(rate)), 0.01))
    [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    """
    found: dict[int, float] = {}
    best = 0
    while True:
        for k in (best, best - 1, best + 1):
            if k not in found and abs(k) <= FARTHEST * PER_DECADE:
                found[k] = score(nth(start, k))
        better = min(found, key=lambda k: (found[k], k))
        if better == best or found[better] > found[best] - LEAD:
            return {nth(start, k): found[k] for k in sorted(found)}
        best = better


def nth(start: float, k: int) -> float:
    """The k-th rate after ``start`` among ..., 0.1, 0.3, 1, 3, ...: the same rates from whatever start.

    >>> [nth(3e-4, k) for k in (-1, 0, 1, 2)]
    [0.0001, 0.0003, 0.001, 0.003]
    """
    return float(f"{10 ** ((round(PER_DECADE * math.log10(start)) + k) / PER_DECADE):.1g}")


def best(losses: Mapping[str, Mapping[str, float | None]], name: str) -> Spec | None:
    """The spec of an optimizer that reached the lowest loss, with its rate; None where none did."""
    found = [
        (loss, parse(text, "optimizer"), float(rate))
        for text, curve in losses.items()
        for rate, loss in curve.items()
        if loss is not None and parse(text, "optimizer").name == name
    ]
    _, spec, rate = min(found, key=lambda entry: entry[0], default=(None, None, None))
    return spec and Spec(spec.name, spec.args, {**spec.keywords, "lr": rate})


def write(spec: Spec) -> None:
    """Puts the spec of an optimizer into the table of defaults."""
    rows = {row.partition("(")[0]: row for row in RATES.read_text("utf-8").splitlines()} | {spec.name: str(spec)}
    scratch = RATES.with_suffix(".tmp")
    scratch.write_text("".join(f"{row}\n" for _, row in sorted(rows.items())), "utf-8")
    os.replace(scratch, RATES)  # a process that reads it while the search runs sees the whole table


def kept(path: Path, section: str) -> dict[str, dict[str, float | None]]:
    """Spec -> rate -> loss, None where training diverged: what a file holds."""
    return load(path).get(section, {}).get("losses", {})


def keep(path: Path, section: str, text: str, rate: float, loss: float) -> None:
    """Puts a loss beside the others."""
    losses = kept(path, section)
    curve = {**losses.get(text, {}), f"{rate:g}": loss if math.isfinite(loss) else None}
    losses[text] = dict(sorted(curve.items(), key=lambda item: float(item[0])))
    save(path, section, {**environment(), "losses": dict(sorted(losses.items()))})


def scorer(path: Path, spec: Spec, steps: int) -> Callable[[float], float]:
    """Rate -> loss of a spec without one: from the file, or trained and added to it."""
    section, text = f"{SECTION}, {steps} steps", str(spec)

    def score(rate: float) -> float:
        curve = kept(path, section).get(text, {})
        if f"{rate:g}" not in curve:
            before = time.perf_counter()
            config = dataclasses.replace(resolve({"steps": steps, "lr": rate}, "nano"), opt=text)
            keep(path, section, text, rate, train(config))
            curve = kept(path, section)[text]
            print(f"{text:44s}{rate:9g}{_shown(curve[f'{rate:g}'])}{time.perf_counter() - before:6.0f} s", flush=True)
        found = curve[f"{rate:g}"]
        return math.inf if found is None else found

    return score


def _shown(loss: float | None) -> str:
    return " diverged" if loss is None else f"{loss:9.4f}"


def run(arguments: list[str]) -> int:
    """Searches."""
    parser = Parser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="these, from lr=RATE on [all, from where TRIED says]")
    parser.add_argument("--at", nargs="+", type=number, metavar="RATE", help="at these rates instead of searching")
    parser.add_argument("--steps", type=whole, default=STEPS, metavar="N", help=f"of a run [{STEPS}]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the losses go [the results of this machine]")
    given = parser.parse(arguments)
    path = given["out"] or RESULTS / f"{machine()}.json"
    for spec in [parse(text, "optimizer") for text in given["specs"]] or tried().values():
        check_name(spec.name, OPTIMIZERS, "optimizer")
        plain = spec.without("lr")
        score = scorer(path, plain, given["steps"])
        if given["at"]:
            [score(rate) for rate in given["at"]]
        else:
            start = spec if "lr" in spec.keywords else tried().get(str(plain), Spec(spec.name))
            climb(score, start.keywords.get("lr", USUAL))
        found = best(kept(path, f"{SECTION}, {given['steps']} steps"), spec.name)
        if found:
            write(found)
            print(f"now {found}", flush=True)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.rates", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
