"""How the best learning rate changes with the width: ``python -m benchmarks.transfer [CASE ...] [--jobs N]``.

Each case is ``compare --widths 64,128,256`` for one optimizer, with and without mup: a GPT with 2 layers and heads of
size 32, 200 steps of 256 characters, a constant learning rate, two seeds. The runs go to ``runs/transfer``, and what is
finished there isn't trained again. The losses go to ``benchmarks/results/transfer/widths.json``; the table is that of
``docs/guides/transfer.md``, and ``python -m docs.drawing transfer`` draws the picture.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, environment, load, save
from minigpt_flax.__main__ import main as minigpt
from minigpt_flax.bounds import Bound
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.transfer import Curve, Family, Transfer
from minigpt_flax.compare.transfer_tables import markdown_table
from minigpt_flax.errors import check_name

OUT = RESULTS / "transfer" / "widths.json"
CASES = {  # optimizer, and the exponents of its lowest and highest learning rate, a factor of two apart
    "adamw": ("adamw(b2=0.95, weight_decay=0.1)", -12, -7),
    "lion": ("lion(weight_decay=0.1)", -13, -8),
    "muon": ("muon", -8, -4),
    "soap": ("soap", -12, -6),
}
FLAGS = (
    "--widths=64,128,256 --heads=2 --layers=2 --steps=200 --batch-size=8 --context=32 --schedule=constant --seeds=2 "
    "--val-tokens=16384 --pictures=png"
).split()


def rates(low: int, high: int) -> str:
    """Learning rates as ``--lr`` takes them.

    >>> rates(-10, -8)
    '0.000977,0.00195,0.00391'
    """
    return ",".join(f"{2.0**k:.3g}" for k in range(low, high + 1))


def command(case: str, folder: Path, jobs: int) -> list[str]:
    """The command of a case."""
    spec, low, high = CASES[case]
    where = [f"--out={folder}", f"--name={case}", f"--jobs={jobs}"]
    return ["compare", f"--opt={spec}", f"--lr={rates(low, high)}", *FLAGS, *where]


def read(path: Path = OUT) -> Transfer:
    """The recorded result, an optimizer's two parametrizations one after the other."""
    found = {case: values for case in CASES if (values := load(path).get(case))}
    families = [family for case, values in found.items() for family in _families(case, values)]
    first = next(iter(found.values()))
    return Transfer(families, first["steps"], first["seeds"])


def _families(case: str, values: dict[str, Any]) -> list[Family]:
    families: dict[str, Family] = {}
    for row in values["widths"]:
        losses = {int(seed): _losses(curve) for seed, curve in row["losses"].items()}
        curve = Curve(row["width"], losses, row["missing"])
        name = row["parametrization"]
        family = families.get(name) or Family(f"{case}, {name}", row["spec"], name, ())
        families[name] = dataclasses.replace(family, curves=[*family.curves, curve])
    return list(families.values())


def _losses(curve: dict[str, float | None]) -> dict[float, float]:
    return {float(rate): float("inf") if loss is None else loss for rate, loss in curve.items()}


def run(arguments: list[str]) -> int:
    """Trains, keeps and prints."""
    parser = Parser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"some of: {', '.join(CASES)} [all]")
    parser.add_argument("--jobs", type=Bound(1, 64, whole=True), default=1, metavar="N", help="processes [1]")
    parser.add_argument("--runs", type=Path, default=Path("runs/transfer"), metavar="DIR", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="where the losses go")
    given = parser.parse(arguments)
    for case in given["case"] or CASES:
        check_name(case, CASES, "case")
        if status := minigpt(command(case, given["runs"], given["jobs"])):
            return status
        found = json.loads((given["runs"] / case / "results.json").read_text("utf-8"))
        save(given["out"], case, {**found, **environment()})
    print(markdown_table(read(given["out"])))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.transfer", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
