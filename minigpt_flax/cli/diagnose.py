"""``diagnose RUN``: loss landscape, curvature, gradient noise and optimizer dynamics at a checkpoint."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli import compiled
from minigpt_flax.cli.parser import COLUMNS, Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError, check_name
from minigpt_flax.invocation import show
from minigpt_flax.progress import Progress
from minigpt_flax.runs import files
from minigpt_flax.text import tell

SUMMARY = "Diagnose a run: loss landscape, curvature, gradient noise, optimizer."
BATCHES = Bound(2, 10_000, whole=True)
NOISE = Bound(0, 1e6, above=True)
STUDIES = ("landscape", "curvature", "noise", "optimizer")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--only", action="append", metavar="STUDY", help=f"{', '.join(STUDIES)}; repeatable [all]")
    parser.add_argument("--step", default="last", metavar="STEP", help="checkpoint: a step, best or last [last]")
    parser.add_argument("--batches", type=BATCHES, default=4, metavar="N", help="batches to evaluate on [4]")
    parser.add_argument("--parameter", metavar="NAME", help="parameter to perturb with noise [the first matrix]")
    parser.add_argument(
        "--noise", type=NOISE, default=0.01, metavar="STD", help="standard deviation of that noise [0.01]"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for numbers and plots [RUN/diagnosis]")
    parser.add_argument("--data", action="append", metavar="PATH", help="current path of the run's data [unchanged]")
    parser.add_argument("--trust", action="store_true", help="execute the optimizer code that the run names")
    compiled.declare(parser)
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
    data: Sequence[str] | None,
    trust: bool,
    compile_cache: str | None,
    quiet: bool,
    json: bool,
) -> int:
    """Runs the studies; prints each as text or as a JSON record, and writes its numbers and its plot.

    Raises:
      UserError: the run, checkpoint, study or parameter doesn't exist, or the folder can't be written.
    """
    answer = Output(quiet, json)
    for name in only or ():
        check_name(name, STUDIES, "study")
    from minigpt_flax.diagnose import curvature, gradient_noise, landscape, optimizer_dynamics
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
    compiled.use(compile_cache)
    with progress(answer.human) as report:
        subject = load(Path(folder), step, batches, report, data=data, trust=trust)
        subject.require_finite()
        where = {"run": show(folder), "step": int(subject.state.step), "batches": batches, "tokens": subject.tokens}
        where |= {"notes": subject.notes}
        if answer.human:
            tell(f"{where['run']} at step {where['step']}, over {batches} batches of {subject.tokens} tokens\n")
            if subject.notes:
                tell(textwrap.fill(" ".join(subject.notes), COLUMNS) + "\n")
        writable(target)
        for name in only or STUDIES:
            finding = studies[name](subject)
            write_study(name, finding, target)
            answer.result(text_of(name, finding), {"study": name, **where, **finding.numbers})
    if answer.human:
        tell(f"numbers and plots: {show(target)}")
    return 0


def writable(target: Path) -> None:
    """Makes the folder of the results.

    Raises:
      UserError: it can't be made.
    """
    try:
        files.make_folder(target)
    except OSError as error:
        raise UserError(f"can't make the folder {show(target)}: {error.strerror}; give another --out") from error


def text_of(name: str, finding: Any) -> str:
    """Formats the result of a study."""
    wrapped = (textwrap.fill(text, COLUMNS, initial_indent="  ", subsequent_indent="  ") for text in finding.sentences)
    return "\n".join((name, *wrapped, ""))


SIZES = {"landscape": (9, 8), "optimizer": (11, 4.5), "widths": (15, 4), "depths": (15, 4)}  # of a study's plot, inches


def write_study(name: str, finding: Any, target: Path) -> None:
    """Writes the numbers and the plot of a study."""
    from matplotlib.figure import Figure

    from minigpt_flax.runs.plots import fonts_for, save

    with fonts_for():
        figure = Figure(figsize=SIZES.get(name, (8, 4.5)), layout="constrained")
        finding.draw(figure)
    try:
        files.replace(target / f"{name}.json", dumps(output.finite(finding.numbers), indent=1, allow_nan=False) + "\n")
        save(figure, target / f"{name}.png")
    except OSError as error:
        files.remove_empty_folder(target)
        raise UserError(f"can't write {show(target)}: {error.strerror}; give another --out") from error


@contextmanager
def progress(shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Yields ``report(text, done, total)``, which shows a progress bar on stderr, in a terminal."""
    with Progress("TimeRemainingColumn", shown=shown, stderr=True) as progress:
        tasks: dict[str, Any] = {}

        def report(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = progress.add(text, total)
            progress.bar.update(tasks[text], completed=done, visible=done < total)

        yield report
