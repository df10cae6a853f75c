"""What XLA makes of a training step, without running it: ``python -m benchmarks.compiling [--only SECTION ...]``.

Sections: ``memory`` (peak of a step of the preset ``gpt2`` by XLA's own analysis, with and without remat and chunked
loss) and ``depth`` (time to compile a step whose layers are a loop, 48 layers against 12). The results go to
``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.results import RESULTS, load, machine, publish
from benchmarks.timing import ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.data.tokenizers.ids import Ids
from minigpt_flax.train.build import loss_sum, make_setup
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.step import make_step
from minigpt_flax.train.throughput import planned

GPT2 = {"batch_size": 8, "tokens_per_step": 8 * 1024, "dtype": "float32"}
VOCABULARY = 50_257
LOOP = {"scan_layers": True}
MEMORY: dict[str, dict[str, Any]] = {
    "layers written out, all logits at once": {"loss_chunk": 0},
    "layers written out": {},
    "layers written out, remat full": {"remat": "full"},
    "layers as a loop": LOOP,
    "layers as a loop, remat dots": LOOP | {"remat": "dots"},
    "layers as a loop, remat full": LOOP | {"remat": "full"},
}
DEPTHS = (12, 48)
NARROW = {"scan_layers": True, "width": 128, "heads": 4, "context": 64, "batch_size": 4}
BAR = 1.3  # times as long for the deeper one
REPEATS = 3


def compiled(preset: str, given: dict[str, Any], vocabulary: int) -> Any:
    """The step that ``train.py`` would take on one device, compiled."""
    config = resolve(given, preset)
    plan = make_setup(config, Ids(vocabulary))
    step = make_step(loss_sum(plan.model), plan.tx, plan.schedule, key=jax.random.key(0), layout=plan.layout)
    batch = jax.ShapeDtypeStruct((config.step_sequences, config.context + 1), jnp.int32)
    return jax.jit(step, donate_argnums=0).lower(jax.eval_shape(plan.init), batch).compile()


def memory() -> dict[str, Any]:
    """Bytes of every way."""
    steps = {name: compiled("gpt2", GPT2 | change, VOCABULARY) for name, change in MEMORY.items()}
    return {"batch": [GPT2["batch_size"], 1024], "bytes": {n: planned(s.memory_analysis()) for n, s in steps.items()}}


def depth() -> dict[str, Any]:
    """Seconds to trace, lower and compile at every depth, in turn."""
    seconds: dict[int, list[float]] = {layers: [] for layers in DEPTHS}
    for _ in range(REPEATS):
        for layers in DEPTHS:
            start = time.perf_counter()
            compiled("nano", NARROW | {"layers": layers}, 256)
            seconds[layers].append(time.perf_counter() - start)
    shallow, deep = DEPTHS
    over = ratios(seconds[deep], seconds[shallow])
    return {"seconds": {str(n): spread(s) for n, s in seconds.items()}, "deep_over_shallow": over}


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {f.__name__: f for f in (memory, depth)}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures, for people."""
    rows = []
    if "memory" in found:
        rows += [f"  {size / 2**20:8,.0f} MiB  {name}" for name, size in found["memory"]["bytes"].items()]
    if "depth" in found:
        rows += [f"  {t['median']:8.2f} s    {n} layers, a loop" for n, t in found["depth"]["seconds"].items()]
        ratio = found["depth"]["deep_over_shallow"]["median"]
        rows.append(f"  {ratio:.2f} times as long, {'within' if ratio <= BAR else 'OVER'} {BAR:g}")
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.compiling", description=__doc__)
    parser.add_argument("--only", metavar="SECTION", nargs="+", choices=SECTIONS, default=tuple(SECTIONS))
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    found = {name: SECTIONS[name]() for name in given["only"]}
    before = load(given["out"] / f"{machine()}.json").get("compiling", {})  # the sections that aren't measured now stay
    publish(given["out"], "compiling", "compiling", table(found), {**before, **found})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.compiling", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
