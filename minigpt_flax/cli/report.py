"""``report RUN|COMPARISON ... --out report.html``: runs or comparisons as one HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt_flax.cli.compare import check_format, declare_format
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare import comparison as comparisons, tables, transfer_tables
from minigpt_flax.compare.collect import collect_runs, group_runs, summarize_comparison, with_distinct_names
from minigpt_flax.compare.comparison import FILE, Comparison
from minigpt_flax.compare.statistics import CandidateRuns, Summary, best_runs, check_comparable, summarize
from minigpt_flax.compare.transfer import transfer_of
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import folder_name, read_run
from minigpt_flax.text import counted, tell

if TYPE_CHECKING:
    from minigpt_flax.report.html import PageRun

SUMMARY = "Write runs or comparisons as one HTML page that opens offline."


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folders", nargs="+", metavar="RUN", help="folders of runs or comparisons")
    parser.add_argument("--out", metavar="FILE", help="page to write [report.html]")
    parser.add_argument("--title", metavar="TEXT", help="heading of the page [the folders' names]")
    declare_format(parser, "print the table of the comparison instead")
    output.declare(parser)


def run(*, folders: list[str], out: str | None, title: str | None, quiet: bool, json: bool, format: str | None) -> int:
    """Writes the page, or prints the table of the comparison.

    Raises:
      UserError: a folder is not a run or has none, runs differ in their data, or the page can't be written.
    """
    from minigpt_flax.report.html import render  # Matplotlib takes long to import

    answer, paths = Output(quiet, json), [Path(folder) for folder in folders]
    check_format(format, answer)
    if format is not None:
        return _print_table(paths, format, {"--out": out, "--title": title})
    out = out or "report.html"
    target_page = Path(os.path.realpath(out))
    files.require_own_file(target_page, "--out")
    entries, comparison = gather(paths)
    shown = _page_runs(entries)
    if not shown:
        raise UserError(f"{show(paths[0])} has no finished run yet: continue the comparison")
    check_comparable([each.run for each in shown])
    transfer = transfer_of(comparison, entries) if comparison and comparison.widths else None
    text = render(title or ", ".join(map(folder_name, paths)), shown, _summary(entries, comparison), transfer)
    try:
        files.replace(target_page, text)
    except OSError as error:
        raise UserError(f"can't write {out}: {error.strerror}") from error
    note = f"{show(out)}: {counted(len(shown), 'run')}, {len(text) / 1e6:.2f} MB; open it in a browser"
    answer.note(note, {"page": show(out), "runs": len(shown), "bytes": len(text.encode())})
    return 0


def _page_runs(entries: list[CandidateRuns]) -> list[PageRun]:
    """The runs of each candidate at its best learning rate."""
    from minigpt_flax.report.html import PageRun

    best = [(entry.name, best_runs(entry)) for entry in entries]
    return [
        PageRun(run, name, f"{name}, seed {seed}" if len(runs) > 1 else name)
        for name, runs in best
        for seed, run in runs.items()
    ]


def _summary(entries: list[CandidateRuns], comparison: Comparison | None) -> Summary:
    return summarize_comparison(comparison, entries) if comparison else summarize(entries)


def _print_table(paths: list[Path], form: str, unused: dict[str, str | None]) -> int:
    """Prints the table in a format of ``tables.FORMATS``."""
    for flag, value in unused.items():
        if value is not None:
            raise UserError(f"{flag} applies to the page, but --format prints a table: omit one of the two")
    entries, comparison = gather(paths)
    if comparison is not None and comparison.widths:
        tell(transfer_tables.FORMATS[form](transfer_of(comparison, entries)), end="")
        return 0
    if len(entries) < 2:
        raise UserError(f"--format {form} prints the table of a comparison, which needs two candidates: add a run")
    tell(tables.FORMATS[form](_summary(entries, comparison)), end="")
    return 0


def gather(paths: list[Path]) -> tuple[list[CandidateRuns], Comparison | None]:
    """The candidates of all comparisons and then of single runs; and the comparison, if there is nothing else."""
    found = {path: comparisons.load(path) for path in paths if (path / FILE).is_file()}
    sources = [(path, collect_runs(found[path], path)) for path in paths if path in found]
    single = [path for path in paths if path not in found]
    sources += [(single[0], group_runs(list(map(read_run, single))))] if single else []
    return with_distinct_names(sources), next(iter(found.values())) if len(paths) == 1 and found else None
