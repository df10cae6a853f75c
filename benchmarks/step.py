"""Speed of a training step against nanoGPT's: ``python -m benchmarks.step [--preset NAME] [--peers DIR] [--compile]``.

The model, batch, precision and optimizer of a preset, here and in PyTorch, from the same weights on the same batches:
forward, backward, clip, AdamW. Everybody does a few steps in turn, so that whatever else the machine does slows all;
ours with huge pages, as ``train.py`` has them, nanoGPT in a process of its own without, as its ``train.py``, and in
another with. Where nothing is dropped out, the losses of both are compared as well. The results go to
``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import peers
from benchmarks.apart import Apart
from benchmarks.results import RESULTS, cores, publish
from benchmarks.timing import race, ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.model.huggingface import to_gpt2
from minigpt_flax.train.build import Run, build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.parallel.xla_flags import huge_pages

PRESETS = {  # name -> bar of our time over nanoGPT's, steps in a turn, turns, whether each has a turn to settle
    "nanogpt": (1.0, 10, 15, False),
    "char": (0.9, 1, 5, True),
}
WAYS = {  # what we do it with
    "ours": {},
    "ours, one device": {"mesh": "data=1"},
    "ours, bfloat16": {"dtype": "bfloat16"},
}
THEIRS = {  # what nanoGPT does it with: torch.compile, huge pages
    "nanoGPT": (False, False),
    "nanoGPT, compiled": (True, False),
    "nanoGPT, huge pages": (False, True),
    "nanoGPT, compiled, huge pages": (True, True),
}
BETAS = 0.9, 0.99  # nanoGPT's for these sizes
BATCHES = 8  # different ones, made beforehand


def ours(run: Run) -> Callable[[], float]:
    """A step of ours, whose measurements are fetched as a run fetches them; returns its loss."""
    state, batches, turn = run.init(), [run.batches(i) for i in range(BATCHES)], 0

    def step() -> float:
        nonlocal state, turn
        state, metrics = run.step(state, batches[turn % BATCHES])
        turn += 1
        return float(jax.device_get(metrics)["loss"])

    return step


def nanogpt(preset: str, folder: Path, compiled: bool, steps: int) -> Callable[[], list[float]]:
    """The same steps by nanoGPT's model and optimizer, and the lines of its ``train.py`` between them."""
    import torch  # pyright: ignore[reportMissingImports]

    run = build(resolve({}, preset))
    model = peers.nanogpt(folder, run.model)
    ours = to_gpt2(run.init().params, run.model)
    flipped = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    theirs = {name: torch.tensor(a.T if name.endswith(flipped) else a) for name, a in ours.items()}
    model.load_state_dict({**theirs, "lm_head.weight": theirs["transformer.wte.weight"]})
    optimizer, train = peers.nanogpt_training(model, 0.0, BETAS, device="cpu", compiled=compiled)
    batches = [torch.from_numpy(np.asarray(run.batches(i)).astype(np.int64)) for i in range(BATCHES)]
    turn = 0

    def step() -> float:
        nonlocal turn
        for group in optimizer.param_groups:
            group["lr"] = float(rates[min(turn, len(rates) - 1)])
        batch = batches[turn % BATCHES]
        turn += 1
        return train(batch[:, :-1].contiguous(), batch[:, 1:].contiguous()).item()

    rates = np.asarray(jax.vmap(run.schedule)(np.arange(run.config.steps)))
    return lambda: [step() for _ in range(steps)]


def turns(run: Run, steps: int) -> Callable[[], list[float]]:
    """Several steps of ours; their losses."""
    step = ours(run)
    return lambda: [step() for _ in range(steps)]


def noting(turn: Callable[[], list[float]], losses: list[float]) -> Callable[[], None]:
    """A turn that leaves its losses in a list."""
    return lambda: losses.extend(turn())


def measure(preset: str, folder: Path | None, rounds: int, compiled: bool) -> dict[str, Any]:
    """Seconds a step of everybody, ours over theirs, and how far the losses are apart."""
    _, steps, _, settled = PRESETS[preset]
    runs = {name: build(resolve(given, preset)) for name, given in WAYS.items()}
    run = runs["ours"]
    candidates: dict[str, Callable[[], list[float]]] = {name: turns(each, steps) for name, each in runs.items()}
    absent = peers.why_not("nanoGPT/model", folder)
    if absent is None and folder is not None:
        for name, (compiling, pages) in THEIRS.items():
            if compiled or not compiling:
                candidates[name] = Apart(nanogpt, preset, folder, compiling, steps, huge_pages=pages)
    losses: dict[str, list[float]] = {name: [] for name in candidates}
    noted = {name: noting(turn, losses[name]) for name, turn in candidates.items()}
    seconds = race(noted, rounds, settled=settled)
    found: dict[str, Any] = {
        "rounds": rounds,
        "steps_in_a_round": steps,
        "ms_per_step": {name: spread([1e3 * s / steps for s in times]) for name, times in seconds.items()},
        "ours_over": {
            name: {theirs: ratios(seconds[name], seconds[theirs]) for theirs in candidates if theirs not in runs}
            for name in runs
        },
    }
    if run.config.dropout == 0:
        apart = lambda name: float(np.max(np.abs(np.subtract(losses["ours"], losses[name]))))
        found["losses_apart"] = {"steps": len(losses["ours"]), **{n: apart(n) for n in candidates if n != "ours"}}
    return found if absent is None else {**found, "absent": {"nanoGPT": absent}}


def table(preset: str, found: dict[str, Any]) -> str:
    """The times, for people."""
    bar = PRESETS[preset][0]
    rows = [f"  {'':20s}{'ms':>9s}{'quartiles':>18s}"]
    for name, ms in found["ms_per_step"].items():
        rows.append(f"  {name:20s}{ms['median']:9.1f}{ms['q1']:9.1f} -{ms['q3']:7.1f}")
    for name, over in found["ours_over"].items():
        for theirs, ratio in over.items():
            judged = f"  {'within' if ratio['median'] <= bar else 'OVER'} {bar:.2f}" if name == "ours" else ""
            rows.append(f"  {name} / {theirs}: {ratio['median']:.2f}{judged}")
    for name, apart in found.get("losses_apart", {}).items():
        rows.append(f"  {name}: {apart}" if name == "steps" else f"  losses of {name} and ours differ by {apart:.1e}")
    rows += [f"  {name} did not take part: {reason}" for name, reason in found.get("absent", {}).items()]
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--preset", metavar="NAME", choices=PRESETS, default="nanogpt", help=", ".join(PRESETS))
    parser.add_argument("--rounds", metavar="N", type=whole, help="rounds [the preset's]")
    parser.add_argument("--peers", metavar="DIR", type=Path, help="folder that has nanoGPT")
    parser.add_argument("--compile", action="store_true", help="nanoGPT by torch.compile too")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    preset = given["preset"]
    rounds = PRESETS[preset][2] if given["rounds"] is None else given["rounds"]
    found = measure(preset, given["peers"], rounds, given["compile"])
    publish(given["out"], f"step {preset}", f"training step of {preset}", table(preset, found), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.step", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    huge_pages()  # both as train.py has them
    jax.config.update("jax_num_cpu_devices", cores())
    sys.exit(main())
