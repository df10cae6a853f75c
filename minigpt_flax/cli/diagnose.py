"""``diagnose RUN``: the loss around a checkpoint, its curvature, the gradient's noise, what the optimizer does."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli.parser import COLUMNS, Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output, tell
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show
from minigpt_flax.runs import files

SUMMARY = "Look inside a run: landscape, curvature, gradient noise, optimizer."
BATCHES = Bound(2, 10_000, whole=True)
NOISE = Bound(0, 1e6, above=True)
STUDIES = ("landscape", "curvature", "noise", "optimizer")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--only", action="append", metavar="STUDY", help=f"one of {', '.join(STUDIES)}; may be repeated"
    )
    parser.add_argument("--step", default="last", metavar="STEP", help="checkpoint: a step, best or last [last]")
    parser.add_argument("--batches", type=BATCHES, default=4, metavar="N", help="batches to look with [4]")
    parser.add_argument("--parameter", metavar="NAME", help="parameter that noise is added to [the first matrix]")
    parser.add_argument("--noise", type=NOISE, default=0.01, metavar="STD", help="standard deviation of it [0.01]")
    parser.add_argument("--out", metavar="DIR", help="folder of numbers and pictures [RUN/diagnosis]")
    output.declare(parser)


def run(
    *,
    folder: str,
    only: Sequence[str] | None,
    step: str,
    batches: int,
    parameter: str | None,
    noise: float,
    out: str | None,
    quiet: bool,
    json: bool,
) -> int:
    """Studies the checkpoint; prints sentences or a record of each study, writes numbers and a picture of each.

    Raises:
      UserError: no such run, checkpoint, study or parameter, or the folder can't be written.
    """
    answer = Output(quiet, json)
    for name in only or ():
        if name not in STUDIES:
            raise UserError(f"no study is called {name!r}{nearest(name, STUDIES)}; there are: {', '.join(STUDIES)}")
    from minigpt_flax.diagnose import curvature, gradient_noise as gradient_noise, landscape, optimizer_dynamics
    from minigpt_flax.diagnose.checkpoint_view import load

    studies: dict[str, Callable[[Any], Any]] = {
        "landscape": lambda subject: landscape.study(subject, parameter, noise),
        "curvature": curvature.study,
        "noise": gradient_noise.study,
        "optimizer": optimizer_dynamics.study,
    }
    target = Path(out) if out else Path(folder) / "diagnosis"
    files.require_own_folder(target, {f"{name}.{form}" for name in STUDIES for form in ("json", "png")}, "--out")
    if (link := files.find_link(Path(folder), ["diagnosis"])) is not None and not out:
        raise UserError(f"{show(link)} is a symbolic link, which is not followed: give --out")
    with _progress(answer.human) as report:
        subject = load(Path(folder), step, batches, report)
        where = {"run": show(folder), "step": int(subject.state.step), "batches": batches, "tokens": subject.tokens}
        if answer.human:
            tell(f"{where['run']} at step {where['step']}, over {batches} batches of {subject.tokens} tokens\n")
            if subject.over:
                tell("The run is over and its learning rate 0: steps are looked at with its peak rate.\n")
        _writable(target)
        for name in only or STUDIES:
            finding = studies[name](subject)
            _keep(name, finding, target)
            answer.result(_told(name, finding), {"study": name, **where, **finding.numbers})
    if answer.human:
        tell(f"numbers and pictures: {show(target)}")
    return 0


def _writable(target: Path) -> None:
    try:
        files.make_folder(target)
    except OSError as error:
        raise UserError(f"can't make the folder {show(target)}: {error.strerror}; give another --out") from error


def _told(name: str, finding: Any) -> str:
    """What a study found, as a person reads it."""
    wrapped = (textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="  ") for text in finding.sentences)
    return "\n".join((name, *wrapped, ""))


def _keep(name: str, finding: Any, target: Path) -> None:
    """Writes down what a study found."""
    from matplotlib.figure import Figure

    from minigpt_flax.runs.plots import save

    figure = Figure(figsize=(12, 4.2) if name != "curvature" else (8, 4.2), layout="constrained")
    finding.draw(figure)
    try:
        files.replace(target / f"{name}.json", dumps(finding.numbers, indent=1) + "\n")
        save(figure, target / f"{name}.png")
    except OSError as error:
        files.remove_empty_folder(target)
        raise UserError(f"can't write {show(target)}: {error.strerror}; give another --out") from error


def _progress(shown: bool) -> Any:
    """A context whose value reports progress on stderr: a moving bar in a terminal, nothing elsewhere."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar():
        columns = (TextColumn("{task.description:10s}"), BarColumn(24), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(
            *columns, console=console, transient=True, disable=not (shown and console.is_terminal)
        ) as progress:
            tasks: dict[str, Any] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total)
                progress.update(tasks[what], completed=done, visible=done < total)

            yield report

    return bar()
