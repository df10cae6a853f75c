"""How fast text is written: ``python -m benchmarks.generation [--peers DIR] [--rounds N]``.

The model of the preset ``char``, fresh, writes 256 characters after a prompt of one: with keys and values kept, without
(the whole window through the model for each), and nanoGPT's ``generate`` with the same sizes in PyTorch, if its folder
is in the one that ``--peers`` names. All take turns in one process, so that whatever else the machine does slows all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import peers
from benchmarks.results import RESULTS, publish
from benchmarks.timing import race, ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import generate
from minigpt_flax.model.gpt import init_params
from minigpt_flax.train.build import model_config
from minigpt_flax.train.config.run_config import resolve
from tests.minigpt_flax.model.uncached import generate_uncached

TOKENS, VOCABULARY, TEMPERATURE = 256, 65, 0.8
ROUNDS = 5
BAR = 5.0  # times as many tokens a second as without what is kept


def ours(config: ModelConfig) -> dict[str, Callable[[], object]]:
    """Both ways of our own, of the same weights."""
    params, key = init_params(config, jax.random.key(0)), jax.random.key(1)
    prompt = jnp.zeros((1, 1), jnp.int32)
    settings: dict[str, Any] = {"max_tokens": TOKENS, "temperature": TEMPERATURE}
    return {
        "cached": lambda: jax.block_until_ready(generate(config, params, prompt, key, **settings)),
        "uncached": lambda: jax.block_until_ready(generate_uncached(config, params, prompt, key, **settings)),
    }


def nanogpt(folder: Path, config: ModelConfig) -> Callable[[], object]:
    """``generate`` of nanoGPT's own model."""
    import torch  # pyright: ignore[reportMissingImports]

    model = peers.nanogpt(folder, config).eval()
    prompt = torch.zeros((1, 1), dtype=torch.long)

    def write() -> object:
        with torch.no_grad():
            return model.generate(prompt, TOKENS, temperature=TEMPERATURE)

    return write


def measure(rounds: int, folder: Path | None) -> dict[str, Any]:
    """Tokens a second of everybody, and ours over theirs."""
    config = model_config(resolve({"dropout": 0.0}, "char"), VOCABULARY)
    candidates = ours(config)
    absent = peers.why_not("nanoGPT/model", folder)
    if absent is None and folder is not None:
        candidates["nanoGPT"] = nanogpt(folder, config)
    seconds = race(candidates, rounds)
    found = {
        "tokens": TOKENS,
        "rounds": rounds,
        "tokens_per_second": {name: spread([TOKENS / s for s in times]) for name, times in seconds.items()},
        "times_as_fast": {name: ratios(seconds[name], seconds["cached"]) for name in candidates if name != "cached"},
    }
    return found if absent is None else {**found, "absent": {"nanoGPT": absent}}


def table(found: dict[str, Any]) -> str:
    """The speeds, for people."""
    speeds = found["tokens_per_second"].items()
    rows = [f"  {name:10s}{speed['median']:10,.0f} tokens/s" for name, speed in speeds]
    rows += [
        f"  cached is {ratio['median']:.1f} times as fast as {name}" for name, ratio in found["times_as_fast"].items()
    ]
    reached = found["times_as_fast"]["uncached"]["median"] >= BAR
    rows.append(f"  {'at least' if reached else 'UNDER'} {BAR:g} times as fast as uncached")
    rows += [f"  {name} did not take part: {reason}" for name, reason in found.get("absent", {}).items()]
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--rounds", metavar="N", type=whole, default=ROUNDS, help=f"rounds [{ROUNDS}]")
    parser.add_argument("--peers", metavar="DIR", type=Path, help="folder that has nanoGPT")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    found = measure(given["rounds"], given["peers"])
    publish(given["out"], "generation", "generation", table(found), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.generation", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
