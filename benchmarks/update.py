"""Speed of one optimizer update: ``python -m benchmarks.update [--only SECTION ...] [--tree NAME] [--peers DIR]``.

Sections: ``adamw`` (clip, AdamW and schedule against Optax, torch and the memory's own speed), ``muon`` and ``soap``
(against Optax and their authors' code), ``compile`` (time to compile every optimizer, against Optax's). The results go
to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from benchmarks import peers
from benchmarks.candidates import (
    FLOATS_MOVED,
    FLOATS_SCALED,
    Jitted,
    Scaling,
    compiled,
    deviation,
    optax_of,
    ours,
    theirs,
)
from benchmarks.results import RESULTS, environment, machine, save
from benchmarks.timing import ROUNDS, race, ratios, spread
from benchmarks.trees import TREES, Tree
from jaxopt_mini import OPTIMIZERS, adamw, apply_updates, chain, clip_by_norm, warmup_cosine
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.errors import UserError, check_name

OURS = "jaxopt_mini"
BARS = {  # section -> candidate -> what our time is at most, as a part of theirs
    "adamw": {"optax": 0.40, "memory floor": 1.25},
    "muon": {"optax": 0.7},
    "soap": {},
    "compile": {"optax": 1.0},
}
CLIP, RATE, STEPS, WARM_UP, FLOOR = 1.0, 1e-3, 1000, 50, 0.1
ADAMW = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.1}
SOAP_PERIOD = 10  # updates from one basis to the next: a round has them all
COMPILATIONS = 5


@dataclass(frozen=True)
class Comparison:
    """One section on one tree.

    Attributes:
      tree: the parameters.
      params: NumPy arrays.
      grads: JAX arrays.
      rounds: number of rounds.
      peers: folder of the authors' files.
    """

    tree: Tree
    params: Any
    grads: Any
    rounds: int
    peers: Path | None

    def jitted(self, tx: Any, add: Callable, updates: int = 1) -> Jitted:
        """An optimizer on these parameters."""
        return Jitted(tx, add, self.params, self.grads, updates)

    def given(self) -> tuple[Any, Any, Any]:
        """What torch's parameters are made of."""
        return self.params, self.grads, self.tree.layout


def time_adamw(comparison: Comparison) -> dict[str, Any]:
    """Clip, AdamW and schedule."""
    schedule = optax.warmup_cosine_decay_schedule(RATE / (WARM_UP + 1), RATE, WARM_UP, STEPS, RATE * FLOOR)
    mine = chain(clip_by_norm(CLIP), adamw(warmup_cosine(RATE, STEPS, warmup=WARM_UP, floor=FLOOR), **ADAMW))
    other = optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(schedule, **ADAMW))
    candidates = {
        OURS: comparison.jitted(mine, apply_updates),
        "optax": comparison.jitted(other, optax.apply_updates),
        "memory": Scaling(comparison.params),
    }
    absent = {"torch": peers.why_no_torch()}
    if absent["torch"] is None:
        how = {"clip": CLIP, "rate": RATE, "steps": STEPS, "betas": (ADAMW["b1"], ADAMW["b2"])}
        how["weight_decay"] = ADAMW["weight_decay"]
        candidates["torch fused"] = peers.adamw(*comparison.given(), **how)
    seconds = race(candidates, comparison.rounds)
    scaling = seconds.pop("memory")
    seconds["memory floor"] = [value * FLOATS_MOVED / FLOATS_SCALED for value in scaling]
    moved = FLOATS_SCALED * 4 * comparison.tree.size
    more = {"bandwidth_gb_s": moved / statistics.median(scaling) / 1e9, "absent": absent}
    return described(comparison, candidates, seconds) | more


def time_muon(comparison: Comparison) -> dict[str, Any]:
    """Muon on the matrices, Adam on the rest."""
    mine, other = ours("muon", RATE, comparison.tree), theirs(optax.contrib.muon, RATE, comparison.tree)
    candidates = {
        OURS: comparison.jitted(mine, apply_updates),
        "optax": comparison.jitted(other, optax.apply_updates),
    }
    absent = {"author, bfloat16": peers.why_not("muon", comparison.peers)}
    if comparison.peers is not None and absent["author, bfloat16"] is None:
        candidates["author, bfloat16"] = peers.muon(comparison.peers, *comparison.given(), RATE)
    return described(comparison, candidates, race(candidates, comparison.rounds)) | {"absent": absent}


def time_soap(comparison: Comparison) -> dict[str, Any]:
    """SOAP; the time is that of an update on average, new bases included."""
    candidates: dict[str, Any] = {
        OURS: comparison.jitted(ours("soap", RATE, comparison.tree), apply_updates, SOAP_PERIOD)
    }
    absent = {"authors": peers.why_not("soap", comparison.peers)}
    if comparison.peers is not None and absent["authors"] is None:
        step = peers.soap(comparison.peers, *comparison.given(), RATE)
        candidates["authors"] = lambda: [step() for _ in range(SOAP_PERIOD)]
    seconds = race(candidates, comparison.rounds)
    each = {name: [value / SOAP_PERIOD for value in values] for name, values in seconds.items()}
    return described(comparison, candidates, each) | {"absent": absent}


def described(comparison: Comparison, candidates: dict[str, Any], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Times, our ratios, compile times, and how far we are from Optax after as many updates."""
    jitted = {name: run for name, run in candidates.items() if isinstance(run, Jitted)}
    found = {
        "rounds": comparison.rounds,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {name: ratios(seconds[OURS], values) for name, values in seconds.items() if name != OURS},
        "compile_seconds": {name: run.compile_seconds for name, run in jitted.items()},
    }
    if "optax" in jitted:
        found["deviation"] = deviation(jitted[OURS].params, jitted["optax"].params, comparison.params)
    return found


def time_compilations(tree: Tree, repeats: int) -> dict[str, Any]:
    """Tracing and compiling of every optimizer's update, each from empty caches."""
    rows = {}
    for name in OPTIMIZERS:
        factory = optax_of(name)
        makers = {OURS: (lambda name=name: ours(name, RATE, tree), apply_updates)}
        if factory is not None:
            makers["optax"] = (lambda factory=factory: theirs(factory, RATE, tree), optax.apply_updates)
        found: dict[str, list[Any]] = {who: [] for who in makers}
        for turn in range(repeats):
            for who in list(makers)[:: 1 if turn % 2 else -1]:
                found[who].append(_compilation(tree, *makers[who]))
        reasons = {who: next((each for each in values if isinstance(each, str)), None) for who, values in found.items()}
        rows[name] = {who: reasons[who] or statistics.median(values) for who, values in found.items()}
        print(f"  {name:22s}{_compile_row(rows[name])}", flush=True)
    return {"repeats": repeats, "seconds": rows}


def _compilation(tree: Tree, make: Callable, add: Callable) -> float | str:
    """Seconds, or why an update of this tree can't be compiled."""
    try:
        tx = make()
        state = jax.eval_shape(tx.init, tree.shapes)
        jax.clear_caches()
        return compiled(tx, add, tree.shapes, state, tree.shapes)[0]
    except (ValueError, TypeError) as error:
        return " ".join(str(error).split())


def _compile_row(row: dict[str, Any]) -> str:
    """As ours never fails on this tree, only Optax may give a reason."""
    if "optax" not in row:
        return f"{row[OURS]:8.2f} s    not in Optax"
    if isinstance(row["optax"], str):
        return f"{row[OURS]:8.2f} s    Optax can't: {row['optax']}"
    return f"{row[OURS]:8.2f} s  {row['optax']:8.2f} s  {_verdict(row[OURS] / row['optax'], BARS['compile']['optax'])}"


def _verdict(ratio: float, bar: float | None) -> str:
    if bar is None:
        return f"{ratio:5.2f}"
    return f"{ratio:5.2f}  {'within' if ratio <= bar else 'OVER'} {bar:.2f}"


def table(title: str, section: str, found: dict[str, Any]) -> str:
    """What a comparison found, for people."""
    rows = [title, f"  {'':20s}{'ms':>10s}  {'quartiles':>19s}   ours / it"]
    for name, times in found["seconds"].items():
        row = f"  {name:20s}{times['median'] * 1e3:10.2f}  {times['q1'] * 1e3:9.2f}-{times['q3'] * 1e3:9.2f}"
        if name in found["ratios"]:
            row += f"   {_verdict(found['ratios'][name]['median'], BARS[section].get(name))}"
        rows.append(row)
    rows += [f"  {name}: left out, {why}" for name, why in found["absent"].items() if why]
    rows += [f"  {name} compiles in {seconds:.2f} s" for name, seconds in found["compile_seconds"].items()]
    if "deviation" in found:
        rows.append(f"  after the same updates ours and Optax's differ by {found['deviation']:.1e} of the movement")
    return "\n".join(rows)


COMPARISONS = {"adamw": time_adamw, "muon": time_muon, "soap": time_soap}
SECTIONS: dict[str, Sequence[str]] = {  # the trees where none is named
    "adamw": ("gpt2", "gpt2_layers"),
    "muon": ("nano", "gpt2"),
    "soap": ("nano",),
    "compile": ("gpt2",),
}


def measure(section: str, tree: Tree, rounds: int, folder: Path | None) -> dict[str, Any]:
    """Measures one section on one tree and prints what it found."""
    title = f"{section} on {tree}, {machine()}"
    if section not in COMPARISONS:
        print(title, flush=True)
        return time_compilations(tree, min(rounds, COMPILATIONS))
    # Gradients of a norm above the threshold, so that the clip has something to do.
    params, grads = tree.filled(0, 0.02), tree.filled(1, 10 * CLIP / np.sqrt(tree.size))
    found = COMPARISONS[section](Comparison(tree, params, jax.tree.map(jnp.array, grads), rounds, folder))
    print(table(title, section, found), flush=True)
    return found


def run(arguments: list[str]) -> int:
    """Measures what is asked for."""
    parser = Parser(prog="python -m benchmarks.update", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections")
    parser.add_argument("--tree", metavar="NAME", help=f"time on these parameters: {', '.join(TREES)} [by section]")
    parser.add_argument("--peers", metavar="DIR", type=Path, help="folder with the authors' muon.py and soap.py")
    parser.add_argument("--repeats", metavar="N", type=whole, default=ROUNDS, help=f"rounds [{ROUNDS}]")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(arguments)
    if given["repeats"] < 1:
        raise UserError(f"--repeats must be at least 1, got {given['repeats']}")
    jax.config.update("jax_enable_compilation_cache", False)  # else a second run would compile nothing
    chosen = [check_name(name, SECTIONS, "section") for name in given["only"] or SECTIONS]
    asked = given["tree"] and [check_name(given["tree"], TREES, "tree")]
    path = given["out"] / f"{machine()}.json"
    for section in chosen:
        for name in asked or SECTIONS[section]:
            found = measure(section, TREES[name](), given["repeats"], given["peers"])
            save(path, f"{section} {name}", {**environment(), **found})
    print(f"wrote {path}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.update", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
