"""What the loop adds to the step: ``python -m benchmarks.loop [--rounds N] [--steps N]``.

All of ``train`` at the preset ``nano``, with its callbacks, log, progress and checkpoints, against the same compiled
step called alone; then with every probe. Validations are excluded. Also, whether the device ever waits for the host:
how often a step was dispatched while the previous one was still running. On several CPU devices that is never, because
there each step is waited for (``train/compile.py`` says why).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.results import RESULTS, cores, environment, machine, save
from benchmarks.timing import race, ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.console.reporters import Terminal
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import Run, build
from minigpt_flax.train.compile import CompiledStep
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.loop import fit
from minigpt_flax.train.parallel.xla_flags import huge_pages
from minigpt_flax.train.probes import PROBES

STEPS = 500  # in a block, a checkpoint after it; the probes that run every N steps measure in the first at least
ROUNDS = 3
TINY = {"layers": 1, "heads": 2, "width": 16, "context": 8, "batch_size": 4}
BARS = {"loop": 1.03, "loop with probes": 1.05}


class Watched(CompiledStep):
    """A step that counts how often the previous one was still running when it was dispatched.

    Args:
      step: the step.
    """

    def __init__(self, step: CompiledStep):
        super().__init__(step.function, block=step.block, finish=step.finish)
        self.ahead, self.calls, self.before = 0, 0, None

    def __call__(self, state: Any, batch: Any) -> Any:
        """Does a step."""
        state, metrics = super().__call__(state, batch)
        if self.before is not None:
            self.calls += 1
            self.ahead += not self.before.is_ready()
        self.before = jax.tree.leaves(metrics)[0]
        return state, metrics

    @property
    def share(self) -> float:
        """The share of the steps that were dispatched ahead."""
        return self.ahead / self.calls


def bare(run: Run) -> None:
    """The steps and their batches alone, one in flight as in the loop."""
    state = run.init()
    for step in range(run.config.steps):
        state, _ = run.step(state, run.batches(step))
    jax.block_until_ready(state)


def whole_loop(run: Run) -> Any:
    """The steps as ``train.py`` does them; returns the watched one."""
    watched = functools.cache(Watched)
    run = dataclasses.replace(
        run,
        step=watched(run.step),
        step_with_probes=watched(run.step_with_probes),
        step_with_periodic_probes=watched(run.step_with_periodic_probes),
        evaluate=lambda params, stop: {"val_loss": 1.0, "val_sem": 0.0},
    )
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        fit(run, run.init(), folder=Path(scratch) / "run", reporter=Terminal())
    return run.step


def measure(rounds: int, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a block, interleaved.

    Args:
      rounds: number of blocks of each candidate.
      steps: in a block.
      changes: to the preset.
    """
    make = lambda **more: build(resolve({**changes, "steps": steps, "eval_every": steps, **more}, "nano"))
    plain, probed = make(), make(probe=tuple(PROBES))
    seen: list[Watched] = []
    seconds = race(
        {
            "step": lambda: bare(plain),
            "loop": lambda: seen.append(whole_loop(plain)),
            "loop with probes": lambda: whole_loop(probed),
        },
        rounds,
    )
    return {
        "steps": steps,
        "rounds": rounds,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {name: ratios(seconds[name], seconds["step"]) for name in BARS},
        "sent_ahead": {
            f"on {plain.mesh.size} devices": min(watched.share for watched in seen),
            "on one device": whole_loop(make(mesh="data=1")).share,
        },
    }


def table(found: dict[str, Any]) -> str:
    """The times, for people."""
    rows = [
        f"  {name:18s}{times['median'] / found['steps'] * 1e3:8.2f} ms a step"
        for name, times in found["seconds"].items()
    ]
    for name, bar in BARS.items():
        ratio = found["ratios"][name]["median"]
        rows.append(f"  {name} / step: {ratio:.3f}, {'within' if ratio <= bar else 'OVER'} {bar}")
    for where, share in found["sent_ahead"].items():
        rows.append(f"  {where} {share:.1%} of the steps were dispatched while the previous one was running")
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--rounds", metavar="N", type=whole, default=ROUNDS, help=f"rounds [{ROUNDS}]")
    parser.add_argument("--steps", metavar="N", type=whole, default=STEPS, help=f"steps in a block [{STEPS}]")
    parser.add_argument("--tiny", action="store_true", help="only show that it runs: a smaller model")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    if min(given["rounds"], given["steps"] - 1) < 1:
        raise UserError(f"--rounds must be at least 1 and --steps 2, got {given['rounds']} and {given['steps']}")
    found = measure(given["rounds"], given["steps"], TINY if given["tiny"] else {})
    print(f"loop, {machine()}\n{table(found)}")
    path = given["out"] / f"{machine()}{'-tiny' if given['tiny'] else ''}.json"
    save(path, "loop", {**environment(), **found})
    print(f"wrote {path}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.loop", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    huge_pages()  # both as train.py has them
    jax.config.update("jax_num_cpu_devices", cores())
    sys.exit(main())
