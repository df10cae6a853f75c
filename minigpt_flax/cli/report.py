"""``report RUN|COMPARISON ... --out report.html``: runs or comparisons as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path

from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare import comparison as comparisons
from minigpt_flax.compare.collect import collect_runs, group_runs, summarize_comparison, with_distinct_names
from minigpt_flax.compare.comparison import FILE, Comparison
from minigpt_flax.compare.statistics import CandidateRuns, best_runs, check_comparable, summarize
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import folder_name, read_run

SUMMARY = "Write runs or comparisons as one HTML page that opens offline."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folders", nargs="+", metavar="RUN", help="folders of runs or comparisons")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="page to write [report.html]")
    parser.add_argument("--title", metavar="TEXT", help="heading of the page [the folders' names]")
    output.declare(parser)


def run(*, folders: list[str], out: str, title: str | None, quiet: bool, json: bool) -> int:
    """Writes the page.

    Raises:
      UserError: a folder is not a run or has none, runs differ in data or length, or the page can't be written.
    """
    from minigpt_flax.report.html import PageRun, render  # Matplotlib takes long to import

    answer, paths, target_page = Output(quiet, json), [Path(folder) for folder in folders], Path(os.path.realpath(out))
    files.require_own_file(target_page, "--out")
    entries, comparison = gather(paths)
    best = [(entry.name, best_runs(entry)) for entry in entries]
    shown = [
        PageRun(run, name, f"{name}, seed {seed}" if len(runs) > 1 else name)
        for name, runs in best
        for seed, run in runs.items()
    ]
    if not shown:
        raise UserError(f"{show(paths[0])} has no finished run yet: continue the comparison")
    check_comparable([each.run for each in shown])
    summary = None
    if len(entries) > 1:
        summary = summarize_comparison(comparison, entries) if comparison else summarize(entries)
    text = render(title or ", ".join(map(folder_name, paths)), shown, summary)
    try:
        files.replace(target_page, text)
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror}") from error
    note = f"{show(out)}: {len(shown)} run{'s' * (len(shown) > 1)}, {len(text) / 1e6:.2f} MB; open it in a browser"
    answer.note(note, {"page": show(out), "runs": len(shown), "bytes": len(text.encode())})
    return 0


def gather(paths: list[Path]) -> tuple[list[CandidateRuns], Comparison | None]:
    """The candidates of all comparisons and then of single runs; and the comparison, if there is nothing else."""
    found = {path: comparisons.load(path) for path in paths if (path / FILE).is_file()}
    sources = [(path, collect_runs(found[path], path)) for path in paths if path in found]
    single = [path for path in paths if path not in found]
    sources += [(single[0], group_runs(list(map(read_run, single))))] if single else []
    return with_distinct_names(sources), next(iter(found.values())) if len(paths) == 1 and found else None
