"""``eval RUN``: the loss of a trained model on a whole split, in total and by position in the context."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigpt_flax.cli import compiled
from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.progress import Progress

SUMMARY = "Evaluate a run's loss on a whole split, or on other text."
SIZES = ("tokens", "characters", "bytes")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--data",
        action="append",
        metavar="SOURCE",
        help="corpus, file, folder, glob or hf:NAME; repeatable [the run's data, mixed as in training]",
    )
    parser.add_argument("--split", metavar="NAME", help="validation, training or all [validation; all with --data]")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    parser.add_argument("--picture", metavar="FILE", help="plot the loss by position as PNG, PDF or SVG")
    compiled.declare(parser)
    output.declare(parser)


def run(
    *,
    folder: str,
    data: list[str] | None,
    split: str | None,
    step: str,
    picture: str | None,
    compile_cache: str | None,
    quiet: bool,
    json: bool,
) -> int:
    """Prints the loss, and plots it if ``--picture`` is given.

    Raises:
      UserError: the run, checkpoint, data or split is missing; the tokenizer lacks characters of the data; a file
        can't be written.
    """
    answer = Output(quiet, json)
    if picture is not None:
        _check_picture(Path(picture))
    from minigpt_flax.train.evaluate_split import check_split, evaluate_split
    from minigpt_flax.train.restore import restore

    check_split(split)
    compiled.use(compile_cache)
    bar = lambda batches, count: with_progress(batches, count, answer.human)
    report = evaluate_split(restore(Path(folder), step), data, split, bar)
    answer.result(text(report), report)
    if picture is not None:
        _draw(Path(picture), report)
    return 0


def text(report: dict[str, Any]) -> str:
    """Formats a report in 80 columns."""
    from minigpt_flax.train.loss_by_position import table

    sizes = [f"{report[name]:,} {name}" for name in SIZES if name in report]
    units = [unit for unit in ("character", "byte") if f"bits_per_{unit}" in report]
    bits = [f", {report[f'bits_per_{unit}']:.3f} bits/{unit}" for unit in units]
    values = np.array([math.nan if value is None else value for value in report["loss_by_position"]])
    return "\n".join(
        (
            f"run        {report['run']}, checkpoint of step {report['step']:,}",
            f"data       {report['data']}, {report['split']}: {', '.join(sizes)}",
            f"loss       {report['loss']:.4f} +- {report['loss_sem']:.4f} nats/token",
            f"           perplexity {report['perplexity']:.2f}{''.join(bits)}",
            *(
                f"           {one['loss']:.4f} on {one['share']:.1%} of the batches, {name}"
                for name, one in report.get("sources", {}).items()
            ),
            "",
            table(values),
        )
    )


def with_progress(batches: Iterable[Any], count: int, shown: bool) -> Iterator[Any]:
    """Yields ``count`` batches and shows a progress bar on stderr, in a terminal."""
    with Progress("TaskProgressColumn", "TimeRemainingColumn", shown=shown, stderr=True) as progress:
        yield from progress.bar.track(batches, total=count, description="evaluating")


def _check_picture(path: Path) -> None:
    """Refuses a path that can't hold a picture, before the evaluation."""
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in endings:
        raise UserError(f"--picture {path} must end in one of: {', '.join(f'.{name}' for name in endings)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"can't write {path}: the folder {show(path.absolute().parent)} doesn't exist")


def _draw(path: Path, report: dict[str, Any]) -> None:
    from minigpt_flax.runs.plots import by_position

    try:
        by_position(
            report["loss_by_position"], report["loss_by_position_sem"], path, f"{report['run']}: {report['data']}"
        )
    except (OSError, ValueError) as error:
        raise UserError(f"can't write the picture {path}: {error}; give --picture FILE.png") from error
