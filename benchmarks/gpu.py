"""One accelerator, from its traps to whole training steps: ``python -m benchmarks.gpu [--only SECTION ...] [--tiny]``.

Sections: ``scatter`` (is the regression of jaxlib 0.10.2 to 0.11.0 there), ``attention`` (the implementations against
each other), ``loss`` (its two forms), ``train`` (the presets gpt2 and speedrun: batch sizes, layers as a loop,
rematerialisation, chunks of the loss), ``optimizer`` (against the speed of memory, and the share of a step),
``nanogpt`` (a step in turns with nanoGPT's, whose folder ``--peers`` gives; torch needs memory that JAX leaves it:
XLA_PYTHON_CLIENT_MEM_FRACTION=0.5), ``sweep`` (16 runs in one program against one run). A section that fails or runs
out of time says so and leaves the others alone; what cannot be measured, for want of memory say, is a row that says
why. The results go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator import FULL, SECTIONS, TINY, Sizes, one_line
from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser, whole
from minigpt_flax.errors import check_name
from minigpt_flax.train.clock import quantity, shorten

BUDGET = 500  # seconds a section, unless told otherwise
AIMS = {  # by section and row
    "train": {"speedrun, whole step": "490k tokens/s and MFU 50% on one H200"},
    "optimizer": {"adamw": "1.15 of the memory floor", "muon": "5% of a whole step"},
}
FORMS: dict[str, Callable[[Any], str]] = {
    "ms": lambda value: f"{value:.2f} ms",
    "tokens_per_second": lambda value: f"{shorten(value)} tokens/s",
    "mfu": lambda value: "MFU unknown" if value is None else f"MFU {value:.1%}",
    "memory_bytes": lambda value: quantity(value, "B"),
    "compile_seconds": lambda value: f"compiled in {value:.1f} s",
    "attention": lambda value: f"attention {value}",
    "loss": lambda value: f"loss {value:.3f}",
    "update_ms": lambda value: f"an update {value:.2f} ms",
    "times_floor": lambda value: f"{value:.2f} of the memory floor",
    "share": lambda value: f"{value:.1%} of a step",
    "share_of_whole": lambda value: f"{value:.1%} of a whole step",
    "one_hot_ms": lambda value: f"as a product {value:.2f} ms",
    "times_distinct": lambda value: f"{value:.1f} x distinct",
    "regression": lambda value: "REGRESSION" if value else "no regression",
    "deviation": lambda value: f"{value:.1e} from plain",
    "over_nanogpt": lambda value: f"{value:.2f} of nanoGPT's time",
    "against_one_by_one": lambda value: f"{value:.2f} of one by one",
    "error": lambda value: f"failed: {value}",
    "absent": lambda value: f"left out: {value}",
}


def measure(section: str, size: Sizes, budget: float, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Runs a section until it is done, fails or is out of time; prints and keeps each row as it comes."""
    found: dict[str, Any] = {"rows": {}, "complete": False}
    end = time.monotonic() + budget
    print(f"{section}, {machine()}", flush=True)
    try:
        for name, values in SECTIONS[section](size):
            found["rows"][name] = values
            keep(found)
            print(text(name, values, AIMS.get(section, {}).get(name)), flush=True)
            if time.monotonic() > end:
                print(f"  out of time after {budget:g} s: the rest is left out")
                return found
        found["complete"] = True
    except Exception as error:  # whatever a compiler or a driver raises
        found["error"] = one_line(error)
        print(f"  failed: {found['error']}")
    keep(found)
    return found


def text(name: str, values: dict[str, Any], aim: str | None) -> str:
    """A row for people: its name, then as many figures a line as fit into 80 columns."""
    lines = [f"  {name:28s}"]
    for figure in [FORMS[key](value) for key, value in values.items()] + ([f"aim: {aim}"] if aim else []):
        if len(lines[-1]) + len(figure) > 78 and lines[-1].strip():
            lines.append(" " * 30)
        lines[-1] += f"{figure}  "
    return "\n".join(line.rstrip() for line in lines)


def run(arguments: Sequence[str]) -> int:
    """Measures what is asked for."""
    parser = Parser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections")
    parser.add_argument("--peers", metavar="DIR", type=Path, help="folder that has nanoGPT")
    parser.add_argument("--tiny", action="store_true", help="only show that it runs, on any machine")
    parser.add_argument("--budget", metavar="S", type=whole, default=BUDGET, help=f"seconds a section [{BUDGET}]")
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse(list(arguments))
    chosen = [check_name(name, SECTIONS, "section") for name in given["only"] or SECTIONS]
    path = given["out"] / f"{machine()}{'-tiny' if given['tiny'] else ''}.json"
    size = dataclasses.replace(TINY if given["tiny"] else FULL, peers=given["peers"])
    for section in chosen:
        keep = lambda found, section=section: save(path, f"gpu {section}", {**environment(), **found})
        measure(section, size, given["budget"], keep)
    print(f"wrote {path}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.gpu", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
