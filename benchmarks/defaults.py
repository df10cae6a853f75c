"""Does every optimizer learn untuned? ``python -m benchmarks.defaults [--only NAME ...] [--out FILE]``.

Trains what ``python train.py --preset nano --steps 300 --opt NAME`` trains, for every optimizer that has no result yet
at its present rate, and asks that the validation loss be a nat below the unigram entropy of the corpus: what a model
reaches that knows how frequent each character is and nothing of what stands beside it. Rules that have one rate for all
parameters and no preconditioner must be half a nat below.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.rates import known
from benchmarks.results import RESULTS, environment, load, machine, save
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.data import unigram_entropy
from minigpt_flax.train.build import build
from minigpt_flax.train.cli import Parser, guarded
from minigpt_flax.train.config import RunConfig, resolve

SECTION = "defaults"
STEPS = 300
BAR = 1.0  # nats below the unigram entropy
PLAIN_BAR = 0.5
PLAIN = {
    "sgd", "momentum", "asgd", "polyak_sgd", "schedule_free_sgd", "dog", "dowg", "sign_sgd", "signum", "rprop", "lars",
}  # fmt: skip


def config_of(name: str) -> RunConfig:
    """What the command resolves to."""
    return resolve({"opt": name, "steps": STEPS}, "nano")


def train(name: str) -> dict[str, Any]:
    """Trains with one optimizer; returns its rate, its validation loss and how far that is below the entropy."""
    config = config_of(name)
    run = build(config)
    state = run.init()
    for t in range(config.steps):
        state, _ = run.step(state, run.batches(t))
    loss = run.evaluate(state.evaluation_params)["val_loss"]
    below = unigram_entropy(run.train_tokens, run.tokenizer.vocab_size) - loss
    return {"lr": config.lr, "val_loss": loss, "below_entropy": below, "bar": PLAIN_BAR if name in PLAIN else BAR}


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    verdict = "learns" if found["below_entropy"] >= found["bar"] else "BELOW THE BAR"
    loss, below = found["val_loss"], found["below_entropy"]
    return f"{name:22s}{found['lr']:9g}{loss:9.4f}{below:8.2f}{found['bar']:6.1f}  {verdict}"


def run(arguments: list[str]) -> int:
    """Trains what is asked for, prints a line for each, keeps the results."""
    parser = Parser(prog="python -m benchmarks.defaults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these [those without a result]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go [the results of this machine]")
    given = parser.parse(arguments)
    path = given["out"] or RESULTS / f"{machine()}.json"
    done = load(path).get(SECTION, {}).get("optimizers", {})
    print(f"{'optimizer':22s}{'rate':>9s}{'loss':>9s}{'below':>8s}{'bar':>6s}", flush=True)
    # A result holds for the rate that it was trained at, and rates change.
    due = [name for name in OPTIMIZERS if done.get(name, {}).get("lr") != config_of(name).lr]
    for name in known(given["only"]) or due:
        done[name] = train(name)
        print(row(name, done[name]), flush=True)
        save(path, SECTION, {**environment(), "steps": STEPS, "optimizers": dict(sorted(done.items()))})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.defaults", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
