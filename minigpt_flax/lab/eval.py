"""``eval RUN``: how well a trained run predicts a text, all of it, and how that depends on what it has seen before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.lab.records import show
from minigpt_flax.train import output
from minigpt_flax.train.cli import Parser
from minigpt_flax.train.output import Output

SUMMARY = "Measure a run's loss on a whole split or another text."
SPLITS = ("validation", "training", "all")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument("--data", metavar="SOURCE", help="corpus, file, folder, glob or hf:NAME [the run's own]")
    parser.add_argument("--split", metavar="NAME", help="validation, training or all [validation; all of --data]")
    parser.add_argument("--step", default="best", metavar="STEP", help="checkpoint: a step, best or last [best]")
    parser.add_argument("--picture", metavar="FILE", help="draw the loss by position there, PNG, PDF or SVG")
    output.declare(parser)


def run(
    *, folder: str, data: str | None, split: str | None, step: str, picture: str | None, quiet: bool, json: bool
) -> int:
    """Prints the loss; draws what was asked for.

    Raises:
      UserError: no such run, checkpoint, data or split; data that isn't the model's; a file that can't be written.
    """
    answer = Output(quiet, json)
    part = split or ("validation" if data is None else "all")
    if part not in SPLITS:
        raise UserError(f"no split is called {part!r}{nearest(part, SPLITS)}; there are: {', '.join(SPLITS)}")
    if picture is not None and not Path(picture).absolute().parent.is_dir():
        raise UserError(f"can't write {picture}: there is no folder {show(Path(picture).absolute().parent)}")
    report = measured(Path(folder), data, part, step, bar=answer.human)
    answer.result(text(report), report)
    if picture is not None:
        _draw(Path(picture), report)
    return 0


def measured(folder: Path, source: str | None, part: str, step: str, *, bar: bool = False) -> dict[str, Any]:
    """Evaluates a run's model.

    Args:
      folder: of the run.
      source: the data; None takes the run's own.
      part: of the data, one of ``SPLITS``.
      step: of the checkpoint.
      bar: show in a terminal how far it is.

    Returns:
      What was measured, on what, and the numbers; losses in nats per token.
    """
    from minigpt_flax.data import Ids, bits_per_character, evaluation_windows, load_corpus
    from minigpt_flax.lab.positions import losses_of
    from minigpt_flax.train.build import EVALUATION_TOKENS
    from minigpt_flax.train.dataset import chained, tokens_of
    from minigpt_flax.train.evaluate import perplexity
    from minigpt_flax.train.restore import restore

    run = restore(folder, step)
    corpus = load_corpus(_only(run.config.data) if source is None else source)
    training, validation = tokens_of(corpus, run.tokenizer)
    tokens = {"training": training, "validation": validation, "all": chained(training, validation)}[part]
    batch = max(1, EVALUATION_TOKENS // run.model.context)
    windows = evaluation_windows(tokens, run.model.context, batch)
    count = -(-(len(tokens) - 1) // (batch * run.model.context))
    losses = losses_of(run.model, run.params, watched(windows, count, bar))
    found = {"loss": losses.mean, "loss_sem": losses.error, "perplexity": perplexity(losses.mean)}
    size = {"tokens": len(tokens)}
    if not isinstance(run.tokenizer, Ids):
        written = run.tokenizer.decode(np.asarray(tokens))
        size |= {"characters": len(written), "bytes": len(written.encode("utf-8", "surrogatepass"))}
        found["bits_per_character"] = bits_per_character(losses.mean, len(tokens), size["characters"])
        found["bits_per_byte"] = bits_per_character(losses.mean, len(tokens), size["bytes"])
    about = {"run": show(folder), "step": run.step, "data": corpus.name, "sha256": corpus.sha256, "split": part}
    return (
        about
        | size
        | found
        | {
            "loss_by_position": [_number(value) for value in losses.by_position],
            "loss_by_position_sem": [_number(value) for value in losses.errors],
        }
    )


def text(report: dict[str, Any]) -> str:
    """A report as a person reads it, in 80 columns."""
    from minigpt_flax.lab.positions import table

    sizes = [f"{report[name]:,} {name}" for name in ("tokens", "characters", "bytes") if name in report]
    bits = [f", {report[f'bits_per_{unit}']:.3f} bits/{unit}" for unit in ("character", "byte") if "bytes" in report]
    values = np.array([math.nan if value is None else value for value in report["loss_by_position"]])
    return "\n".join(
        (
            f"run        {report['run']}, checkpoint of step {report['step']:,}",
            f"data       {report['data']}, {report['split']}: {', '.join(sizes)}",
            f"loss       {report['loss']:.4f} +- {report['loss_sem']:.4f} nats/token",
            f"           perplexity {report['perplexity']:.2f}{''.join(bits)}",
            "",
            table(values),
        )
    )


def watched(windows: Iterable[Any], count: int, shown: bool) -> Iterator[Any]:
    """Passes on ``count`` batches behind a bar on the terminal's error stream; without a terminal, without a bar."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield from bar.track(windows, total=count, description="evaluating")


def _only(sources: tuple[str, ...]) -> str:
    """The source of a run that has one."""
    first, *others = sources
    if others:
        raise UserError(f"the run was trained on several sources: give one of them as --data: {', '.join(sources)}")
    return first


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _draw(path: Path, report: dict[str, Any]) -> None:
    from minigpt_flax.lab.plots import by_position

    try:
        by_position(
            report["loss_by_position"], report["loss_by_position_sem"], path, f"{report['run']}: {report['data']}"
        )
    except (OSError, ValueError) as error:
        raise UserError(f"can't write the picture {path}: {error}; give --picture FILE.png") from error
