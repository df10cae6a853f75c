"""``compare``: train and compare optimizers, schedules, learning rates and seeds, or compare finished runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound, BoundOrWord
from minigpt_flax.cli.parser import Parser, add_fields, given_fields
from minigpt_flax.cli.sizes import sizes
from minigpt_flax.cli.studies import declare_execution, preset_of, progress_output, tell_share, used_flags
from minigpt_flax.compare import comparison as comparisons, tables, transfer_tables
from minigpt_flax.compare.collect import collect_runs, group_runs, summarize_comparison
from minigpt_flax.compare.comparison import (
    ALONE,
    AUTO,
    FEWEST_SEEDS,
    FILE,
    LOSS,
    MOST_SEEDS,
    Comparison,
    folder_name,
    located,
    shared_fields,
)
from minigpt_flax.compare.jobs import leave_accelerator_to
from minigpt_flax.compare.paired_tests import RESOLUTION
from minigpt_flax.compare.results import (
    DEFAULT_PICTURES,
    PICTURES,
    RESULTS,
    write_results,
    write_transfer,
)
from minigpt_flax.compare.sequential import USUAL_MOST
from minigpt_flax.compare.statistics import CandidateRuns, Summary, summarize
from minigpt_flax.compare.transfer import Transfer, transfer_of
from minigpt_flax.console import output as console
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError, check_name
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import read_run
from minigpt_flax.text import shortened, tell
from minigpt_flax.train.config.run_config import flag_of
from minigpt_flax.train.stop import end_with_parent

SUMMARY = "Compare optimizers or finished runs, with significance tests."
EXAMPLES = """
  compare --opt adamw --opt muon                   each at its default --lr
  compare --opt adamw --opt muon --lr auto         each at the --lr of a search
  compare --opt adamw --opt "adamw(b2=0.95)" --lr 1e-3,3e-3 --seeds 5
  compare --schedule wsd --schedule cosine         one optimizer, two schedules
  compare --opt adamw --opt my_optimizer.py:factory
  compare --opt adamw --widths 64,128,256 --lr auto
  compare runs/ONE runs/OTHER                      finished runs
"""
MOST_RATES = 100
TESTS = ("baseline", "pairs", "resolution")  # flags that fix the tests
SHOWING = {"--target", "--quiet", "--json", "--format", "--pictures"}  # flags of what is shown and written
SUMMARIZING = {*SHOWING, "--out", "--name", *(f"--{name}" for name in TESTS)}  # of finished runs
RESUMING = {*SHOWING, "--resume", "--seeds", "--vmap", "--jobs", "--share", "--trust"}
OWN = (
    "folders", "opt", "schedule", "lr", "seeds", "target", "preset", "out", "name", "resume", "vmap", "jobs", "share",
    "trust", "quiet", "json", "format", "pictures", "max_seeds", "widths", "parametrization", *TESTS
)  # fmt: skip


def declare_format(parser: argparse._ActionsContainer, text: str) -> None:
    """Adds ``--format``."""
    parser.add_argument("--format", metavar="FORM", help=f"{text}: {', '.join(tables.FORMATS)}")


def check_format(form: str | None, answer: Output) -> None:
    """Refuses an unknown format, and one beside ``--json``.

    Raises:
      UserError: says what is possible.
    """
    if form is not None:
        check_name(form, tables.FORMATS, "--format")
        if answer.json:
            raise UserError("--json and --format exclude each other: --format json prints the same values; omit --json")


@dataclass(frozen=True)
class Answer:
    """What the command shows and writes.

    Attributes:
      output: format of the output.
      pictures: formats of the figures.
      form: format of the table, one of ``tables.FORMATS``; None prints the summary.
    """

    output: Output
    pictures: tuple[str, ...]
    form: str | None

    @property
    def human(self) -> bool:
        """Whether to print progress and notes for a person to standard output."""
        return self.output.human and self.form is None

    def show(self, summary: Summary, folder: Path) -> None:
        """Prints the results."""
        if self.form is not None:
            tell(tables.FORMATS[self.form](summary), end="")
        else:
            self.output.result(tables.text(summary), {"folder": show(folder), **tables.as_values(summary)})

    def show_transfer(self, transfer: Transfer, folder: Path) -> None:
        """Prints the results of a comparison over widths."""
        if self.form is not None:
            tell(transfer_tables.FORMATS[self.form](transfer), end="")
        else:
            values = {"folder": show(folder), **transfer_tables.as_values(transfer)}
            self.output.result(transfer_tables.text(transfer), values)

    def list_files(self, folder: Path, written: Sequence[str]) -> None:
        """Prints the names of the files that were written."""
        if self.human:
            tell(f"\n{show(folder)}: {', '.join(written)}")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.usage = f"{line('compare')} [RUN ...] [--flag VALUE ...]"
    parser.description = f"{SUMMARY}\n{EXAMPLES}"
    parser.set_defaults(notices=parser.take_repeated)
    parser.add_argument("folders", nargs="*", metavar="RUN", help="finished runs or one comparison to summarize")
    add = parser.add_argument_group("candidates").add_argument
    add("--opt", action="append", metavar="SPEC", help="optimizer, or FILE.py:factory; repeatable")
    add("--schedule", action="append", metavar="SPEC", help="learning-rate schedule; repeatable")
    add("--lr", metavar="LIST", help="learning rates such as 0.001,0.003, or auto: search [each optimizer's default]")
    add("--widths", metavar="N,N,...", help="widths, smallest first: how the best of --lr changes with the width")
    add(
        "--parametrization",
        action="append",
        metavar="SPEC",
        help="standard, mup or completep; repeatable [standard; with --widths also mup]",
    )
    seeds = Bound(FEWEST_SEEDS, MOST_SEEDS, whole=True)
    add(
        "--seeds",
        type=BoundOrWord(Bound(1, MOST_SEEDS, whole=True), AUTO),
        metavar="N",
        help="runs per candidate, from --seed up, or auto [what a verdict takes]",
    )
    add(
        "--max-seeds",
        type=seeds,
        metavar="N",
        help=f"largest number of runs that --seeds auto adds up to [{USUAL_MOST}]",
    )
    add("--baseline", metavar="NAME", help="candidate that the others are tested against [the first]")
    add("--pairs", action="store_true", help="test every two candidates instead")
    add("--resolution", type=LOSS, metavar="LOSS", help=f"smaller differences count as equal [{RESOLUTION:g}]")
    add("--target", type=LOSS, metavar="LOSS", help="validation loss to reach [that of the baseline]")
    how = {"together": "runs of one optimizer", "share": "share I of N"}
    declare_execution(parser, "comparison", named_by="its candidates", **how)
    group = parser.add_argument_group("output")
    console.declare(group)
    declare_format(group, "print only the table, for a document")
    default = ",".join(DEFAULT_PICTURES)
    group.add_argument(
        "--pictures", metavar="LIST", help=f"formats of the figures: {', '.join(PICTURES)} or none [{default}]"
    )
    add_fields(parser, without=("opt", "schedule", "lr", "parametrization", "init", "tuned_at", *ALONE))


def run(**options: Any) -> int:
    """Trains the runs that aren't finished, and writes the results beside them.

    Returns:
      0, or 128 + the signal that stopped it.

    Raises:
      UserError: the request is invalid.
    """
    end_with_parent()
    notices = options.pop("notices")
    typed = {name: options.pop(name) for name in OWN}
    given = given_fields(options)
    output = Output(typed["quiet"], typed["json"])
    check_format(typed["format"], output)
    answer = Answer(output, _pictures(typed["pictures"]), typed["format"])
    check_use(typed, given)
    typed |= {name: typed[name] or default for name, default in (("out", "runs"), ("jobs", 1))}
    if typed["folders"]:
        return _summarize_folders([Path(folder) for folder in typed["folders"]], typed, answer)
    leave_accelerator_to(typed["jobs"])
    comparison, folder = requested(typed, given)
    files.require_replaceable(folder, RESULTS)
    from minigpt_flax.compare.runner import run_comparison  # takes seconds: JAX

    how = {name: typed[name] for name in ("vmap", "jobs", "share")}
    shown = answer.output.human and (answer.human or typed["jobs"] == 1)  # jobs write to this process's own output
    with progress_output(answer.human):
        status = run_comparison(comparison, folder, shown=shown, notices=notices(), **how)
    if status:
        return status
    comparison = comparisons.continued(comparison, folder, None)  # with the seeds that were added
    if typed["share"]:
        if answer.human and typed["jobs"] == 1:
            tell_share(typed["share"], "compare", folder)
        return 0
    return _report(comparison, typed["target"], folder, answer)


def requested(typed: Mapping[str, Any], given: dict[str, Any]) -> tuple[Comparison, Path]:
    """Returns the comparison that the flags describe, and its folder."""
    if typed["resume"]:
        folder = Path(typed["resume"])
        comparison = comparisons.load(folder, trust=typed["trust"])
        if typed["seeds"] == AUTO or typed["seeds"] and comparison.looks:
            how = "with" if comparison.looks else "without"
            raise UserError(f"{show(folder)} was started {how} --seeds auto, which can't change: omit --seeds")
        return comparisons.continued(comparison, folder, typed["seeds"]), folder
    first = given.pop("seed", 0)
    count = None if typed["seeds"] == AUTO else typed["seeds"]
    widths = tuple(sizes("--widths", typed["widths"]) or ())
    given, parametrizations = comparisons.with_parametrizations(given, typed["parametrization"] or (), widths)
    comparison = Comparison(
        preset=preset_of(typed["preset"]),
        given=shared_fields(given),
        opts=tuple(map(located, typed["opt"] or ())),
        schedules=tuple(typed["schedule"] or ()),
        lr=() if typed["lr"] == AUTO else _rates(typed["lr"]),
        search=typed["lr"] == AUTO,
        seeds=tuple(range(first, first + (count or FEWEST_SEEDS))),
        widths=widths,
        parametrizations=parametrizations,
        target=typed["target"],
        baseline=typed["baseline"],
        pairs=typed["pairs"],
        resolution=typed["resolution"] or RESOLUTION,
        max_seeds=comparisons.most_seeds(typed["seeds"], typed["max_seeds"], typed["resolution"], widths),
    )
    comparisons.check(comparison)
    folder = files.folder_in(typed["out"], typed["name"] or folder_name(comparison))
    return comparisons.continued(comparison, folder, count), folder


def _rates(text: str | None) -> tuple[float, ...]:
    """Reads ``--lr``.

    >>> _rates("1e-3,3e-3"), _rates(None)
    ((0.001, 0.003), ())
    """
    parts = [] if text is None else text.split(",")
    if len(parts) > MOST_RATES:
        raise UserError(f"--lr takes at most {MOST_RATES} learning rates, got {len(parts)}")
    try:
        return tuple(map(float, parts))
    except ValueError:
        raise UserError(f"--lr takes auto, or numbers such as 0.001,0.003; got {shortened(repr(text))}") from None


def _pictures(text: str | None) -> tuple[str, ...]:
    """Reads ``--pictures``.

    >>> _pictures("svg,pdf"), _pictures("none"), _pictures(None)
    (('svg', 'pdf'), (), ('png', 'svg'))
    """
    if text is None:
        return DEFAULT_PICTURES
    formats = tuple(dict.fromkeys(text.split(",")))
    if formats == ("none",):
        return ()
    for form in formats:
        check_name(form, PICTURES, "format of --pictures")
    return formats


def check_use(typed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses flags that would have no effect.

    Raises:
      UserError: a flag of a new comparison is combined with finished runs or ``--resume``.
    """
    used = used_flags(typed, given) - {flag_of("folders")}
    if typed["folders"] and (unused := sorted(used - SUMMARIZING)):
        raise UserError(
            f"{unused[0]} applies to training, but folders of runs are only summarized: omit one of the two"
        )
    if typed["resume"] and (unused := sorted(used - RESUMING)):
        raise UserError(f"--resume continues a comparison as it was started: omit {unused[0]}")


def _summarize_folders(folders: list[Path], typed: Mapping[str, Any], answer: Answer) -> int:
    """Summarizes without training."""
    if len(folders) == 1 and (folders[0] / FILE).is_file():
        comparison = comparisons.load(folders[0])
        for name in TESTS:
            if typed[name] and typed[name] != getattr(comparison, name):
                raise UserError(f"the tests of {show(folders[0])} were fixed before its first run: omit --{name}")
        return _report(comparison, typed["target"], folders[0], answer)
    candidates = group_runs([read_run(folder) for folder in folders])
    if len(candidates) < 2:
        raise UserError("a comparison needs two candidates, but these runs differ at most in their seed: add a run")
    results = files.folder_in(typed["out"], typed["name"] or "compare")
    files.require_own_folder(results, RESULTS, "the results' folder")
    how = {"baseline": typed["baseline"], "pairs": typed["pairs"], "resolution": typed["resolution"] or RESOLUTION}
    return _show(candidates, summarize(candidates, typed["target"], **how), results, answer)


def _report(comparison: Comparison, target: float | None, folder: Path, answer: Answer) -> int:
    """Shows the results of a comparison."""
    candidates = collect_runs(comparison, folder)
    if comparison.widths:
        return _show_transfer(transfer_of(comparison, candidates), folder, answer)
    return _show(candidates, summarize_comparison(comparison, candidates, target), folder, answer)


def _show(candidates: list[CandidateRuns], summary: Summary, folder: Path, answer: Answer) -> int:
    """Prints the results and writes them into the folder, with the figures."""
    files.require_replaceable(folder, RESULTS)
    answer.show(summary, folder)
    answer.list_files(folder, write_results(candidates, summary, folder, answer.pictures))
    return 0


def _show_transfer(transfer: Transfer, folder: Path, answer: Answer) -> int:
    """Prints the results of a comparison over widths and writes them into the folder, with the figure."""
    files.require_replaceable(folder, RESULTS)
    answer.show_transfer(transfer, folder)
    answer.list_files(folder, write_transfer(transfer, folder, answer.pictures))
    return 0
