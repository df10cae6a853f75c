"""What a training step on a CPU spends on its parts: ``python -m benchmarks.parts [--rounds N]``.

The step of the preset ``nanogpt`` with half of its batch on one core, which is what each of two cores does, with one
thing changed at a time: a part left out, or in the form that it would have without the care taken here. Everybody does
a few steps in turn. The results go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.results import RESULTS, publish
from benchmarks.step import ours
from benchmarks.timing import race, ratios, spread
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.errors import UserError
from minigpt_flax.model import linear
from minigpt_flax.model.mlp import MLPS
from minigpt_flax.model.norm import NORMS
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.parallel.xla_flags import huge_pages

ROUNDS = 40
STEPS = 5  # in a turn
AS_IT_IS = "as it is"
Change = Callable[[], contextlib.AbstractContextManager[Any]]


def gelu_as(activation: Callable[[jax.Array], jax.Array]) -> Change:
    """Another activation in the place of GELU."""
    return lambda: mock.patch.dict(MLPS, gelu=MLPS["gelu"]._replace(activation=activation))


CHANGES: dict[str, Change] = {
    AS_IT_IS: contextlib.nullcontext,
    "gradients of weights without a copy": lambda: mock.patch.object(linear, "matmul_transposed_grad", jnp.matmul),
    "GELU by erfc": gelu_as(functools.partial(jax.nn.gelu, approximate=False)),
    "rectifier for GELU": gelu_as(jax.nn.relu),
    "no normalisation": lambda: mock.patch.dict(NORMS, layernorm=lambda x, eps: x),
    "no softmax": lambda: mock.patch.object(jax.nn, "softmax", lambda x, axis: jnp.where(x > -jnp.inf, x, 0)),
}


def changed(change: Change) -> Callable[[], object]:
    """Some steps with a change, traced while it holds."""
    with change():
        run = build(resolve({"batch_size": 6, "mesh": "data=1"}, "nanogpt"))
        step = ours(run)
        step()
    return lambda: [step() for _ in range(STEPS)]


def measure(rounds: int) -> dict[str, Any]:
    """Milliseconds of a step with each change, and over those of the step as it is."""
    seconds = race({name: changed(change) for name, change in CHANGES.items()}, rounds)
    return {
        "rounds": rounds,
        "ms_per_step": {name: spread([1e3 * s / STEPS for s in times]) for name, times in seconds.items()},
        "over": {name: ratios(times, seconds[AS_IT_IS]) for name, times in seconds.items()},
    }


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Keeps this process, and the threads that JAX starts meanwhile, to one core; a machine is named by all it has.

    Raises:
      UserError: the system can't.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("benchmarks.parts needs a system that keeps a process to one core, such as Linux")
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


def table(found: dict[str, Any]) -> str:
    """The times, for people."""
    rows = [f"  {'':36s}{'ms':>8s}{'quartiles':>18s}{'ratio':>8s}"]
    for name, ms in found["ms_per_step"].items():
        ratio = found["over"][name]["median"]
        rows.append(f"  {name:36s}{ms['median']:8.1f}{ms['q1']:9.1f} -{ms['q3']:7.1f}{ratio:8.3f}")
    return "\n".join(rows)


def run(arguments: Sequence[str]) -> int:
    """Measures."""
    parser = Parser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("--rounds", metavar="N", type=whole, default=ROUNDS, help=f"rounds [{ROUNDS}]")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    with on_one_core():
        found = measure(given["rounds"])
    publish(given["out"], "parts", "a step's parts", table(found), found)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.parts", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    huge_pages()  # as train.py has them
    sys.exit(main())
