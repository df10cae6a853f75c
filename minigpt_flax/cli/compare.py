"""``compare``: optimizers, schedules, learning rates and seeds against each other, or runs that are there already."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import Parser, add_fields, given_fields
from minigpt_flax.compare import comparison as contests, tables
from minigpt_flax.compare.collect import entries_of, grouped
from minigpt_flax.compare.comparison import ALONE, FILE, LOSS, Contest
from minigpt_flax.compare.statistics import Entry, judge
from minigpt_flax.console import output
from minigpt_flax.console.output import Output, tell
from minigpt_flax.errors import UserError, check_name
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import read_run
from minigpt_flax.text import shortened
from minigpt_flax.train.config.run_config import PRESETS, default_preset, flag_of
from minigpt_flax.train.stop import end_with_parent

SUMMARY = "Compare optimizers, or finished runs: who wins, and is it significant."
LINES = """
  compare --opt adamw --opt muon                   each at its own learning rate
  compare --opt adamw --opt muon --lr auto         each at the best of a search
  compare --opt adamw --opt "adamw(b2=0.95)" --lr 1e-3,3e-3 --seeds 5
  compare --schedule wsd --schedule cosine         of one optimizer
  compare runs/ONE runs/OTHER                      what is trained already
"""
AUTO = "auto"
SEEDS = 3
MOST_RATES = 100
FORMS = {"results.json": tables.as_json, "results.csv": tables.as_csv, "results.md": tables.markdown}
JUDGING = {"--target", "--out", "--name", "--quiet", "--json"}  # flags that may stand beside finished runs
RESUMING = {"--resume", "--target", "--vmap", "--jobs", "--share", "--quiet", "--json"}  # and beside --resume
RESULTS = frozenset({*FORMS, "loss.png", "rates.png", "target.png", "schedules.png", "ratios.png"})
OWN = (
    "folders", "opt", "schedule", "lr", "seeds", "target", "preset", "out", "name", "resume", "vmap", "jobs", "share",
    "quiet", "json"
)  # fmt: skip


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.usage = f"{line('compare')} [RUN ...] [--flag VALUE ...]"
    parser.description = f"{SUMMARY}\n{LINES}"
    parser.add_argument("folders", nargs="*", metavar="RUN", help="finished runs, or one comparison, to judge")
    add = parser.add_argument_group("contestants").add_argument
    add("--opt", action="append", metavar="WORD", help="an optimizer; repeat it")
    add("--schedule", action="append", metavar="WORD", help="a schedule; may be repeated")
    add("--lr", metavar="LIST", help="0.001,0.003 tries these; auto searches [each optimizer's own]")
    add("--seeds", type=Bound(2, 10_000, whole=True), metavar="N", help=f"runs of each, seeds from --seed up [{SEEDS}]")
    add("--target", type=LOSS, metavar="LOSS", help="validation loss to reach [what the first reached]")
    how = parser.add_argument_group("how it runs").add_argument
    how("--preset", metavar="NAME", help="what all other flags start from [by device]")
    how("--out", metavar="DIR", help="folder that holds the comparison [runs]")
    how("--name", metavar="NAME", help="its folder is OUT/NAME [by its contestants]")
    how("--resume", metavar="FOLDER", help="go on with this comparison; so does the same line again")
    how("--vmap", action="store_true", help="train runs of one optimizer together, in one program")
    how("--jobs", type=Bound(1, 1024, whole=True), metavar="N", help="processes at once on this machine [1]")
    how("--share", metavar="I/N", help="do the I-th of N shares (from 0): for N hosts with one folder")
    output.declare(parser.add_argument_group("output"))
    add_fields(parser, without=("opt", "schedule", "lr", "init", *ALONE))


def run(**options: Any) -> int:
    """Trains what is to be trained, judges, and writes the verdict beside the runs.

    Returns:
      Exit status: 0, or 128 + the signal that ended it.

    Raises:
      UserError: what was asked for can't be compared.
    """
    end_with_parent()
    typed = {name: options.pop(name) for name in OWN}
    given = given_fields(options)
    answer = Output(typed["quiet"], typed["json"])
    check_use(typed, given)
    typed |= {name: typed[name] or default for name, default in (("out", "runs"), ("jobs", 1))}
    if typed["jobs"] > 1:  # else the first process takes most of an accelerator's memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if typed["folders"]:
        return _judge_folders([Path(folder) for folder in typed["folders"]], typed, answer)
    if typed["resume"]:
        folder = Path(typed["resume"])
        contest = contests.load(folder)
    else:
        contest = contests.check(_contest(typed, given))
        folder = Path(typed["out"]) / (typed["name"] or _name(contest))
    require_replaceable(folder)
    from minigpt_flax.compare.runner import conduct  # takes seconds: JAX

    status = conduct(contest, folder, vmap=typed["vmap"], jobs=typed["jobs"], share=typed["share"], shown=answer.human)
    if status:
        return status
    if typed["share"]:
        if answer.human and typed["jobs"] == 1:
            tell(f"share {typed['share']} is done; the verdict, when all are: {line('compare', folder)}")
        return 0
    return _tell(entries_of(contest, folder), typed["target"] or contest.target, folder, answer)


def _contest(typed: Mapping[str, Any], given: dict[str, Any]) -> Contest:
    """The words of the command line as a comparison."""
    preset = typed["preset"]
    if preset is None:
        import jax

        preset = default_preset(jax.default_backend())
    check_name(preset, PRESETS, "preset")
    first = given.pop("seed", 0)
    return Contest(
        preset=preset,
        given=given,
        opts=tuple(typed["opt"] or ()),
        schedules=tuple(typed["schedule"] or ()),
        lr=() if typed["lr"] == AUTO else _rates(typed["lr"]),
        search=typed["lr"] == AUTO,
        seeds=tuple(range(first, first + (typed["seeds"] or SEEDS))),
        target=typed["target"],
    )


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


def _name(contest: Contest) -> str:
    """A folder's name by the contestants: the same line finds its comparison again."""
    words = "-".join(who.folder for who in contest.contestants)
    return re.sub(r"-+", "-", f"compare-{contest.preset}-{contest.steps}-{words}")[:100].rstrip("-")


def check_use(typed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses flags that would have no effect.

    Raises:
      UserError: a flag that describes or runs a new comparison stands beside finished runs or ``--resume``.
    """
    used = {flag_of(name) for name in (*typed, *given) if name != "folders" and {**typed, **given}[name]}
    if typed["folders"] and (unused := sorted(used - JUDGING)):
        raise UserError(f"{unused[0]} trains, and folders of runs are only judged: leave one of the two out")
    if typed["resume"] and (unused := sorted(used - RESUMING)):
        raise UserError(f"--resume continues a comparison as it was started: leave {unused[0]} out")


def _judge_folders(folders: list[Path], typed: Mapping[str, Any], answer: Output) -> int:
    """Judges without training."""
    if len(folders) == 1 and (folders[0] / FILE).is_file():
        contest = contests.load(folders[0])
        return _tell(entries_of(contest, folders[0]), typed["target"] or contest.target, folders[0], answer)
    entries = grouped([read_run(folder) for folder in folders])
    if len(entries) < 2:
        raise UserError("a comparison needs two contestants: these runs differ in their seed at most; name another run")
    results = Path(typed["out"]) / (typed["name"] or "compare")
    files.require_own_folder(results, RESULTS, "the results' folder")
    return _tell(entries, typed["target"], results, answer)


def require_replaceable(folder: Path) -> None:
    """Refuses a folder in which a link or a folder stands in the place of a result, before anything is written.

    Raises:
      UserError: names it.
    """
    for name in sorted(RESULTS):
        try:
            files.require_plain(folder / name)
        except OSError as error:
            raise UserError(f"can't write {show(folder / name)}: {error.strerror}") from error


def _tell(entries: list[Entry], target: float | None, folder: Path, answer: Output) -> int:
    """Prints the verdict and writes it into the folder, with the pictures."""
    require_replaceable(folder)
    verdict = judge(entries, target)
    answer.result(tables.text(verdict), {"folder": show(folder), **tables.as_values(verdict)})
    try:
        files.make_folder(folder)
        for name, form in FORMS.items():
            files.replace(folder / name, form(verdict))
    except OSError as error:
        raise UserError(f"can't write into {show(folder)}: {error.strerror}") from error
    from minigpt_flax.compare.figures import pictures  # takes half a second

    written = [*FORMS, *pictures(entries, verdict, folder)]
    if answer.human:
        tell(f"\n{show(folder)}: {', '.join(written)}")
    return 0
