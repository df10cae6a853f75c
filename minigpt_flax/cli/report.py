"""``report RUN|COMPARISON ... --out report.html``: one page to look at, to keep and to send."""

from __future__ import annotations

import os
from pathlib import Path

from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare import comparison as contests
from minigpt_flax.compare.collect import entries_of, grouped
from minigpt_flax.compare.comparison import FILE
from minigpt_flax.compare.statistics import Entry, best_runs, judge, same
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import read_run

SUMMARY = "Write runs or a comparison as one HTML page that opens offline."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folders", nargs="+", metavar="RUN", help="folders of runs or of comparisons")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="page to write [report.html]")
    parser.add_argument("--title", metavar="TEXT", help="its heading [the folders' names]")
    output.declare(parser)


def run(*, folders: list[str], out: str, title: str | None, quiet: bool, json: bool) -> int:
    """Writes the page.

    Raises:
      UserError: a folder is no run or holds none, runs of different data or length, or the page can't be written.
    """
    from minigpt_flax.report.html import Shown, page  # Matplotlib, which takes long to import

    answer, paths, target_page = Output(quiet, json), [Path(folder) for folder in folders], Path(os.path.realpath(out))
    files.require_own_file(target_page, "--out")
    entries, target = gather(paths)
    best = [(entry.name, best_runs(entry)) for entry in entries]
    shown = [
        Shown(run, name, f"{name}, seed {seed}" if len(runs) > 1 else name)
        for name, runs in best
        for seed, run in runs.items()
    ]
    if not shown:
        raise UserError(f"{show(paths[0])} holds no run of full length yet: let the comparison go on")
    same([each.run for each in shown])
    verdict = judge(entries, target) if len(entries) > 1 else None
    text = page(title or ", ".join(path.resolve().name for path in paths), shown, verdict)
    try:
        files.replace(target_page, text)
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror}") from error
    said = f"{show(out)}: {len(shown)} run{'s' * (len(shown) > 1)}, {len(text) / 1e6:.2f} MB; open it in a browser"
    answer.note(said, {"page": show(out), "runs": len(shown), "bytes": len(text.encode())})
    return 0


def gather(paths: list[Path]) -> tuple[list[Entry], float | None]:
    """Contestants of the comparisons, then the single runs; and the target, if one comparison has one."""
    entries: list[Entry] = []
    target = None
    for path in paths:
        if (path / FILE).is_file():
            contest = contests.load(path)
            entries += entries_of(contest, path)
            target = contest.target
    single = [read_run(path) for path in paths if not (path / FILE).is_file()]
    return entries + grouped(single), target
