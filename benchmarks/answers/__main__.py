"""``python -m benchmarks.answers [decay | geometry | schedules ...]``: runs missing measurements, writes the pages."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib import rc_context

from benchmarks.answers import decay, geometry, page, schedules
from benchmarks.answers.small import Kept
from benchmarks.results import RESULTS, environment, machine, save
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.runs.style import RC

PAGES = {"decay": decay.answer, "geometry": geometry.answer, "schedules": schedules.answer}
DOCS = Path(__file__).parents[2] / "docs" / "answers"


def run(arguments: list[str]) -> int:
    """Writes the requested pages."""
    parser = Parser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PAGE", help=f"{', '.join(PAGES)} [all]")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/answers"), metavar="DIR", help="folder for measurements [runs/answers]"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIR", help="folder for the pages [docs/answers]")
    parser.add_argument("--results", type=Path, metavar="FILE", help="file for the results [that of this machine]")
    given = parser.parse(arguments)
    for name in given["names"] or PAGES:
        if name not in PAGES:
            raise UserError(f"no page is called {name!r}{nearest(name, PAGES)}; there are: {', '.join(PAGES)}")
    for name in given["names"] or PAGES:
        kept = Kept(given["out"] / f"{name}.json")
        with rc_context(RC):
            pictures, facts = PAGES[name](kept)
        facts |= {"seconds": f"{kept.seconds:,.0f}", "machine": machine()}
        print(f"wrote {show(page.write(given['docs'], name, pictures, facts))}")
        save(given["results"] or RESULTS / f"{machine()}.json", f"answers, {name}", {**environment(), **facts})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.answers", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
