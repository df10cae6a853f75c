"""``eval RUN``: how well a trained run predicts a text, all of it, and how that depends on what it has seen before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt_flax.cli.parser import Parser
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.invocation import show

SUMMARY = "Measure a run's loss on a whole split or another text."
SPLITS = ("validation", "training", "all")
SIZES = ("tokens", "characters", "bytes")


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.add_argument("folder", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--data", metavar="SOURCE", help="corpus, file, folder, glob or hf:NAME [the run's own, mixed as in training]"
    )
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
    if picture is not None:
        _check_picture(Path(picture))
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
    from minigpt_flax.train.dataset import chained, load_dataset
    from minigpt_flax.train.restore import restore

    run = restore(folder, step)
    config = run.config if source is None else dataclasses.replace(run.config, data=(source,), mix=None)
    data = load_dataset(config, tokenizer=run.tokenizer)
    ways = {"training": lambda one: one.train, "validation": lambda one: one.val}
    ways["all"] = lambda one: chained(one.train, one.val)
    each = {one.name: _of_tokens(run, ways[part](one), bar) for one in data.parts}
    about = {"run": show(folder), "step": run.step, "data": data.name, "sha256": data.sha256, "split": part}
    return about | mixed(each, [float(weight) for weight in data.weights])


def _of_tokens(run: Any, tokens: Any, bar: bool) -> dict[str, Any]:
    """The numbers of one source."""
    from minigpt_flax.data import Ids, bits_per_character, evaluation_windows
    from minigpt_flax.train.build import EVALUATION_TOKENS
    from minigpt_flax.train.loss_by_position import losses_of

    batch = max(1, EVALUATION_TOKENS // run.model.context)
    windows = evaluation_windows(tokens, run.model.context, batch)
    count = -(-(len(tokens) - 1) // (batch * run.model.context))
    losses = losses_of(run.model, run.params, watched(windows, count, bar))
    found: dict[str, Any] = {"tokens": len(tokens), "loss": losses.mean, "loss_sem": losses.error}
    if not isinstance(run.tokenizer, Ids):
        written = run.tokenizer.decode(np.asarray(tokens))
        found |= {"characters": len(written), "bytes": len(written.encode("utf-8", "surrogatepass"))}
        found["bits_per_character"] = bits_per_character(losses.mean, len(tokens), found["characters"])
        found["bits_per_byte"] = bits_per_character(losses.mean, len(tokens), found["bytes"])
    return found | {"loss_by_position": losses.by_position, "loss_by_position_sem": losses.errors}


def mixed(each: Mapping[str, Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """The numbers of several sources as one: what the run's batches would lose in expectation.

    Args:
      each: numbers by source.
      weights: the sources' shares in the batches; they sum to 1.

    Returns:
      Sizes are sums, losses and bits means by these weights; for several sources also the loss of each.
    """
    from minigpt_flax.train.evaluate import perplexity

    parts = list(each.values())
    weighted = lambda name: [weight * one[name] for weight, one in zip(weights, parts, strict=True)]
    mean = lambda name: np.sum(weighted(name), axis=0)
    error = lambda name: np.sqrt(np.sum(np.square(weighted(name)), axis=0))
    found: dict[str, Any] = {name: sum(one[name] for one in parts) for name in SIZES if name in parts[0]}
    found |= {"loss": float(mean("loss")), "loss_sem": float(error("loss_sem")), "perplexity": perplexity(mean("loss"))}
    found |= {name: float(mean(name)) for name in ("bits_per_character", "bits_per_byte") if name in parts[0]}
    if len(parts) > 1:
        shares = zip(each.items(), weights, strict=True)
        found["sources"] = {name: {"loss": one["loss"], "share": share} for (name, one), share in shares}
    return found | {
        "loss_by_position": [_number(value) for value in mean("loss_by_position")],
        "loss_by_position_sem": [_number(value) for value in error("loss_by_position_sem")],
    }


def text(report: dict[str, Any]) -> str:
    """A report as a person reads it, in 80 columns."""
    from minigpt_flax.train.loss_by_position import table

    sizes = [f"{report[name]:,} {name}" for name in SIZES if name in report]
    bits = [f", {report[f'bits_per_{unit}']:.3f} bits/{unit}" for unit in ("character", "byte") if "bytes" in report]
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


def watched(windows: Iterable[Any], count: int, shown: bool) -> Iterator[Any]:
    """Passes on ``count`` batches behind a bar on the terminal's error stream; without a terminal, without a bar."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        yield from bar.track(windows, total=count, description="evaluating")


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _check_picture(path: Path) -> None:
    """Refuses a file that no picture can be written to, before anything is computed."""
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in endings:
        raise UserError(f"--picture {path} must end in one of: {', '.join(f'.{name}' for name in endings)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"can't write {path}: there is no folder {show(path.absolute().parent)}")


def _draw(path: Path, report: dict[str, Any]) -> None:
    from minigpt_flax.runs.plots import by_position

    try:
        by_position(
            report["loss_by_position"], report["loss_by_position_sem"], path, f"{report['run']}: {report['data']}"
        )
    except (OSError, ValueError) as error:
        raise UserError(f"can't write the picture {path}: {error}; give --picture FILE.png") from error
