"""``tune``: search the hyperparameters of one optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt_flax.bounds import SIZE, Bound
from minigpt_flax.cli.parser import Parser, add_fields, given_fields
from minigpt_flax.cli.studies import declare_execution, preset_of, progress_output, tell_share, used_flags
from minigpt_flax.compare.comparison import ALONE, located, shared_fields
from minigpt_flax.compare.jobs import leave_accelerator_to
from minigpt_flax.console import output as console
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.text import tell
from minigpt_flax.train.stop import end_with_parent

if TYPE_CHECKING:
    from minigpt_flax.tune.tuning import Tuning

SUMMARY = "Search the hyperparameters of one optimizer."
EXAMPLES = """
  tune --opt adamw --over "lr=1e-4..1e-2" --over "weight_decay=0.01,0.1,0.3"
  tune --opt muon --over "lr=0.01..0.1" --over "beta=0.9..0.99" --budget 12
  tune --opt sgd --over "momentum=0.8..0.99:1-x:4" --over "warmup=0..0.2"
  tune --over "lr=1e-4..1e-2" --width 512 --heads 16 --proxy-width 64
  tune --resume runs/NAME
"""
OVER = """A keyword is lr, a number of the optimizer or of the schedule (warmup), the
threshold of the clipping (clip), or dropout. A range has two values a decade on
a logarithmic scale (log; 1-x for decay rates such as b2), else five (linear),
or LOW..HIGH:SCALE:COUNT says which. It extends if its best value is at an end;
a list doesn't.
"""
OWN = (
    "over", "preset", "budget", "seeds", "judging_seeds", "proxy_width", "out", "name", "resume", "vmap", "jobs",
    "share", "trust", "quiet", "json",
)  # fmt: skip
RESUMING = {"--resume", "--judging-seeds", "--vmap", "--jobs", "--share", "--trust", "--quiet", "--json"}
SEEDS, JUDGING = 1, 2  # by default


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.usage = f'{line("tune")} --over "NAME=RANGE" [--flag VALUE ...]'
    parser.description = f"{SUMMARY}\n{EXAMPLES}\n{OVER}"
    parser.set_defaults(notices=parser.take_repeated)
    add = parser.add_argument_group("search").add_argument
    add("--over", action="append", metavar="NAME=RANGE", help="keyword, with LOW..HIGH or a list of values; repeatable")
    budget = "steps of the search, in full runs per seed [a fifth of all settings]"
    add("--budget", type=Bound(1, 1e6), metavar="RUNS", help=budget)
    add("--seeds", type=Bound(1, 100, whole=True), metavar="N", help=f"runs per setting, from --seed up [{SEEDS}]")
    judging = f"further seeds for the best setting and the start; 0: none [{JUDGING}]"
    add("--judging-seeds", type=Bound(0, 100, whole=True), metavar="N", help=judging)
    add(
        "--proxy-width",
        type=SIZE,
        metavar="N",
        help="train models of this width, as the base of --parametrization [mup], in place of --width",
    )
    how = {"together": "settings of a stage", "share": "share I of N of each stage"}
    declare_execution(parser, "tuning", named_by="optimizer and keywords", **how)
    console.declare(parser.add_argument_group("output"))
    add_fields(parser, without=("init", "tuned_at", "eval_every", "keep", "keep_every", *ALONE))


def run(**options: Any) -> int:
    """Searches, and writes the results beside the runs.

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
    check_use(typed, given)
    tuning, folder = requested(typed, given)
    from minigpt_flax.tune.results import RESULTS, as_values, write_results
    from minigpt_flax.tune.runner import run_tuning

    files.require_replaceable(folder, RESULTS)
    jobs = typed["jobs"] or 1
    leave_accelerator_to(jobs)
    how = {"vmap": typed["vmap"], "jobs": jobs, "share": typed["share"], "shown": output.human}
    with progress_output(output.human):
        status, result = run_tuning(tuning, folder, notices=notices(), **how)
    if result is None:
        return status
    if typed["share"]:
        if output.human and jobs == 1:
            tell_share(typed["share"], "tune", "--resume", folder)
        return 0
    written = write_results(result)
    output.result(f"\n{result}" if output.human else str(result), {"folder": show(folder), **as_values(result)})
    if output.human:
        tell(f"\n{show(folder)}: {', '.join(written)}")
    return 0


def check_use(typed: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses flags that would have no effect.

    Raises:
      UserError: a flag of a new tuning is combined with ``--resume``.
    """
    if typed["resume"] and (unused := sorted(used_flags(typed, given) - RESUMING)):
        raise UserError(f"--resume continues a tuning as it was started: omit {unused[0]}")


def requested(typed: Mapping[str, Any], given: dict[str, Any]) -> tuple[Tuning, Path]:
    """Returns the tuning that the flags describe, and its folder."""
    import dataclasses

    from minigpt_flax.tune import tuning as tunings  # takes seconds: JAX

    if typed["resume"]:
        folder = Path(typed["resume"])
        tuning = tunings.load(folder, trust=typed["trust"])
        judging = tuning.judging_seeds if typed["judging_seeds"] is None else typed["judging_seeds"]
        return tunings.check(dataclasses.replace(tuning, judging_seeds=judging)), folder
    first = given.pop("seed", 0)
    if "opt" in given:
        given["opt"] = located(given["opt"])
    tuning = tunings.Tuning(
        preset=preset_of(typed["preset"]),
        given=shared_fields(given),
        over=tuple(typed["over"] or ()),
        seeds=tuple(range(first, first + (typed["seeds"] or SEEDS))),
        judging_seeds=JUDGING if typed["judging_seeds"] is None else typed["judging_seeds"],
        budget=typed["budget"],
        proxy_width=typed["proxy_width"],
    )
    tunings.check(tuning)
    return tuning, files.folder_in(typed["out"] or "runs", typed["name"] or tunings.folder_name(tuning))
