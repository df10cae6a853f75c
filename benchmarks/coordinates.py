"""Coordinate checks of the transfer guide: ``python -m benchmarks.coordinates [CASE ...]``.

Each case is ``diagnose coordinates`` for one optimizer: a GPT with 2 layers, 256 tokens a step, ten steps, one seed.
The numbers go to ``benchmarks/results/transfer/coordinates``; the largest slopes of all cases are printed as the table
of ``docs/guides/transfer.md``. All cases take about half an hour on two cores.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS
from minigpt_flax.__main__ import main as minigpt
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.diagnose.coordinates import PARTS
from minigpt_flax.errors import check_name

OUT = RESULTS / "transfer" / "coordinates"
FLAGS = "--heads=2 --batch-size=8 --context=32 --steps=10 --seeds=1 --quiet".split()
WIDTHS, DEPTHS = "--widths=64,128,256,512,1024 --layers=2", "--depths=2,8,32 --width=64"
TRANSFER, STANDARD = "--parametrization=completep", "--parametrization=standard"
CASES: dict[str, tuple[str, ...]] = {  # with learning rates at which ten steps are small, if the default is larger
    "adamw-standard": (WIDTHS, "--opt=adamw", STANDARD),
    "adamw": (WIDTHS, "--opt=adamw", TRANSFER),
    "lion": (WIDTHS, "--opt=lion", TRANSFER),
    "sgd": (WIDTHS, "--opt=sgd(momentum=0.9)", "--lr=0.03", TRANSFER),
    "muon": (WIDTHS, "--opt=muon", TRANSFER),
    "soap": (WIDTHS, "--opt=soap", "--lr=1e-3", "--group=embedding=adamw", TRANSFER),
    "shampoo": (WIDTHS, "--opt=shampoo", TRANSFER),
    "lamb": (WIDTHS, "--opt=lamb", "--lr=0.01", TRANSFER),
    "adafactor": (WIDTHS, "--opt=adafactor", "--lr=0.01", TRANSFER),
    "depth-adamw-standard": (DEPTHS, "--opt=adamw", STANDARD),
    "depth-adamw": (DEPTHS, "--opt=adamw", TRANSFER),
    "depth-soap": (DEPTHS, "--opt=soap", "--lr=1e-3", "--group=embedding=adamw", TRANSFER),
    "depth-shampoo": (DEPTHS, "--opt=shampoo", TRANSFER),
}


def measure(case: str) -> None:
    """Runs a case and keeps its numbers."""
    sizes, *rest = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        status = minigpt(["diagnose", "coordinates", *sizes.split(), *rest, *FLAGS, f"--out={folder}"])
        if status > 1:  # 1: a slope is beyond the tolerance
            raise SystemExit(status)
        (found,) = Path(folder).glob("*.json")
        OUT.mkdir(parents=True, exist_ok=True)
        shutil.copy(found, OUT / f"{case}.json")


def row(case: str, numbers: dict[str, Any]) -> str:
    """A case as a line of the table."""
    name, sizes = case.removeprefix("depth-").replace("-standard", ", standard"), numbers["sizes"]
    axis = "widths" if numbers["axis"] == "width" else "depths"
    slopes = [f"{numbers['slopes'][part]['value']:.2f}" for part in PARTS]
    return f"| {name} | {axis} {sizes[0]} to {sizes[-1]} | {' | '.join(slopes)} |"


def table() -> str:
    """The largest slope of each part in ten steps."""
    head = [f"| optimizer | sizes | {' | '.join(PARTS)} |", "|---" * (2 + len(PARTS)) + "|"]
    rows = [row(case, json.loads((OUT / f"{case}.json").read_text("utf-8"))) for case in CASES]
    return "\n".join([*head, *rows])


def run(arguments: list[str]) -> int:
    """Measures, keeps and prints."""
    parser = Parser(prog="python -m benchmarks.coordinates", description=__doc__)
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"some of: {', '.join(CASES)} [all]")
    for case in parser.parse(arguments)["case"] or CASES:
        measure(check_name(case, CASES, "case"))
    print(table())
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.coordinates", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
