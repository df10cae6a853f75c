"""Does every optimizer learn untuned? ``python -m benchmarks.defaults [--only NAME ...] [--out FILE]``.

Trains what ``python train.py --preset nano --steps 300 --opt NAME`` trains, where the search for the rate hasn't, and
asks that the validation loss be a nat below the unigram entropy of the corpus: what a model reaches that knows how
frequent each character is and nothing of what stands beside it. Rules that have one rate for all parameters and no
preconditioner must be half a nat below.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.rates import STEPS, scorer
from benchmarks.results import RESULTS, environment, load, machine, save
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.data import unigram_entropy
from minigpt_flax.errors import check_name
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import RunConfig, resolve

SECTION = "defaults"
BAR = 1.0  # nats below the unigram entropy
PLAIN_BAR = 0.5
PLAIN = {
    "sgd", "momentum", "asgd", "polyak_sgd", "schedule_free_sgd", "dog", "dowg", "sign_sgd", "signum", "rprop", "lars",
}  # fmt: skip


def config_of(name: str) -> RunConfig:
    """What the command resolves to."""
    return resolve({"opt": name, "steps": STEPS}, "nano")


def measure(name: str, path: Path, entropy: float) -> dict[str, Any]:
    """Trains with one optimizer, unless the search for its rate did.

    Args:
      name: row of ``OPTIMIZERS``.
      path: file of the results.
      entropy: of the corpus, in nats.

    Returns:
      Its spec and rate, its validation loss, how far that is below the entropy, and how far it should be.
    """
    config = config_of(name)
    loss = scorer(path, config.opt, STEPS)(config.lr)
    bar = PLAIN_BAR if name in PLAIN else BAR
    return {"opt": str(config.opt), "lr": config.lr, "val_loss": loss, "below_entropy": entropy - loss, "bar": bar}


def is_present(name: str, found: dict[str, Any]) -> bool:
    """Whether a result is of what the command resolves to now; older ones tell the rate alone."""
    config = config_of(name)
    return (found.get("opt", name), found["lr"]) == (str(config.opt), config.lr)


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    verdict = "learns" if found["below_entropy"] >= found["bar"] else "BELOW THE BAR"
    loss, below = found["val_loss"], found["below_entropy"]
    return f"{name:22s}{found['lr']:9g}{loss:9.4f}{below:8.3f}{found['bar']:6.1f}  {verdict}"


def run(arguments: list[str]) -> int:
    """Trains what is asked for, prints a line for each, keeps the results."""
    parser = Parser(prog="python -m benchmarks.defaults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these [all]")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go [the results of this machine]")
    given = parser.parse(arguments)
    path = given["out"] or RESULTS / f"{machine()}.json"
    done = load(path).get(SECTION, {}).get("optimizers", {})
    corpus = build(resolve({}, "nano"))
    entropy = unigram_entropy(corpus.data.parts[0].train, corpus.tokenizer.vocab_size)
    print(f"{'optimizer':22s}{'rate':>9s}{'loss':>9s}{'below':>8s}{'bar':>6s}   entropy {entropy:.4f}", flush=True)
    for name in [check_name(name, OPTIMIZERS, "optimizer") for name in given["only"] or OPTIMIZERS]:
        done[name] = measure(name, path, entropy)
        print(row(name, done[name]), flush=True)
        save(path, SECTION, {**environment(), "steps": STEPS, "optimizers": dict(sorted(done.items()))})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.defaults", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
