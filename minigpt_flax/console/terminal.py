"""What a person sees of a run: the plan, the progress, the ending. Colours and a moving bar only in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeElapsedColumn
from rich.text import Text

from minigpt_flax.console.output import tell
from minigpt_flax.console.summary import LABEL, plan as plan_of
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.loggers import Logger
from minigpt_flax.runs.records import read_run
from minigpt_flax.text import printable
from minigpt_flax.train.build import Run
from minigpt_flax.train.clock import Clock, shorten, spell
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.parallel.multihost import is_first
from minigpt_flax.train.parallel.sharding import local
from minigpt_flax.train.restore import Restored, restore
from minigpt_flax.train.sample import TEMPERATURE, sample
from minigpt_flax.train.state import TrainState

REFRESH = 0.1  # seconds between two movements of the bar
LINES = 20  # lines of progress where there is no terminal, about
PATIENCE = 60.0  # seconds without a line there, at most


def say(label: str, text: str) -> None:
    """Prints a label and what belongs to it."""
    body = printable(text).replace("\n", "\n" + " " * LABEL)
    Console(highlight=False, soft_wrap=True).print(Text.assemble((f"{label:{LABEL}s}", "bold"), body))


def plan(run: Run, folder: RunFolder, done: int) -> None:
    """Says what the run will do."""
    say("run", f"{show(folder.path)}: steps {done:,} to {run.config.steps:,}, seed {run.config.seed}")
    for label, text in plan_of(run):
        say(label, text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows in a terminal, while something goes on of which nobody knows how long it takes, that it does."""
    console = Console(highlight=False)
    columns = [BarColumn(12), TextColumn("{task.description} ...", markup=False), TimeElapsedColumn()]
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(printable(what), total=None)
        yield


class Timekeeper:
    """A hook that only keeps time.

    Args:
      say: takes a line about something that went wrong.
      loggers: get every line of ``metrics.jsonl``.
    """

    def __init__(self, say: Callable[[str], None], loggers: Sequence[Logger] = ()):
        self.say, self.loggers, self.clock = say, loggers, Clock()

    def __enter__(self) -> Timekeeper:
        """Begins."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends."""

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Counts a step."""
        self.clock.step()

    def validating(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """What a validation asks before every batch: whether to stop."""
        return stop

    def validated(self, step: int, results: Mapping[str, float]) -> None:
        """Counts a validation."""
        self.clock.pause()


class Progress(Timekeeper):
    """A hook that shows where the run stands: a moving line in a terminal, now and then a line elsewhere.

    Args:
      config: of the run.
      done: steps that are done already.
    """

    def __init__(self, config: RunConfig, done: int):
        super().__init__(self.print)
        self.config = config
        self.console = Console(highlight=False, soft_wrap=True)
        columns = [BarColumn(12), TextColumn("{task.description}", markup=False)]
        self.bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
        self.task = self.bar.add_task("compiling the step ...", total=config.steps, completed=done)
        self.every = max(config.log_every, config.steps // LINES)
        self.done, self.shown, self.best = done, time.monotonic(), math.inf

    def __enter__(self) -> Progress:
        """Begins."""
        if self.console.is_terminal:
            self.bar.start()
            self.bar.refresh()
        else:
            self.say("compiling the step ...")
        return self

    def __exit__(self, *error: Any) -> None:
        """Clears the bar away."""
        self.bar.stop()

    def print(self, line: str) -> None:
        """Prints a line, above the bar."""
        self.console.print(Text(printable(line)))

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows a step."""
        super().__call__(step, metrics)
        self.done = step
        if self._due() or (step % self.every == 0 and not self.console.is_terminal):
            self._show(self._text(step, metrics))

    def _due(self) -> bool:
        return time.monotonic() - self.shown > (REFRESH if self.console.is_terminal else PATIENCE)

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        if self.console.is_terminal:
            self.move(self.done, text)
        else:
            self.say(f"step {text}")

    def move(self, step: int, text: str) -> None:
        """Moves the line of a terminal."""
        self.bar.update(self.task, completed=step, description=text, refresh=True)

    def _text(self, step: int, metrics: Mapping[str, Any]) -> str:
        """At most 66 columns, which leaves room for the bar."""
        loss, lr, norm = (float(metrics[name]) for name in ("loss", "lr", "grad_norm"))
        return f"{step}/{self.config.steps} loss {loss:.4f} lr {lr:.1e} grad {norm:.2g}{self._speed(step)}"

    def _speed(self, step: int) -> str:
        speed, every, steps = self.clock.steps_per_second(), self.config.eval_every, self.config.steps
        left = self.clock.left(steps - step, -(-steps // every) - step // every)
        if speed is None or left is None:
            return ""
        return f" {shorten(speed * self.config.step_tokens)} tok/s {spell(left)} left"

    def validating(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """The same, and shows how long it is going on, and how long it may."""
        start, usual = time.monotonic(), self.clock.pause_seconds()

        def asked() -> bool:
            if self._due():
                about = "" if usual is None else f" of about {spell(usual)}"
                self._show(f"{self.done}/{self.config.steps} validating, {spell(time.monotonic() - start)}{about}")
            return stop()

        return asked

    def validated(self, step: int, results: Mapping[str, float]) -> None:
        """Shows a validation."""
        super().validated(step, results)
        loss, known = results["val_loss"], self.best
        self.best = min(loss, known)
        self.say(
            f"step {step}: validation loss {loss:.4f} +- {results['val_sem']:.4f}{', best' if loss < known else ''}"
        )


class Outcome(NamedTuple):
    """What came of a finished run.

    Attributes:
      final: the last validation, a line of ``metrics.jsonl``.
      best: that with the lowest loss.
      sample: a text, if the run asks for one.
    """

    final: Mapping[str, Any]
    best: Mapping[str, Any]
    sample: str | None


def outcome(run: Run, folder: RunFolder, state: TrainState) -> Outcome | None:
    """Draws a finished run's curves and samples from it, into its folder; None but in the first process."""
    params = local(state.evaluation_params, run.mesh)
    if not is_first():
        return None
    from minigpt_flax.runs.plots import curves  # Matplotlib, which takes long to import

    record = read_run(folder.path)
    if record.final is None or record.best is None:
        return None
    text = draw(run, params) if run.config.sample_tokens else None
    if text is not None:
        files.replace(folder.samples, text)
    curves(record.records, folder.curves, f"{record.name}: {run.config.opt}")
    return Outcome(record.final, record.best, text)


def complete(folder: RunFolder, config: RunConfig) -> list[str]:
    """Makes the sample and the curves that a finished run lacks, as it was killed before; returns what it made."""
    made = []
    if is_first() and config.sample_tokens and not folder.samples.exists():
        model = restore(folder.path, "last")
        files.replace(folder.samples, draw(model, model.params))
        made.append(folder.samples.name)
    if is_first() and not folder.curves.exists():
        from minigpt_flax.runs.plots import curves

        record = read_run(folder.path)
        curves(record.records, folder.curves, f"{record.name}: {config.opt}")
        made.append(folder.curves.name)
    return made


def ending(run: Run, folder: RunFolder, state: TrainState) -> None:
    """Says what came of a finished run."""
    found = outcome(run, folder, state)
    if found is None:
        return
    final, best = found.final, found.best
    say("validation", f"loss {final['val_loss']:.4f} +- {final['val_sem']:.4f} nats/token, over the whole split")
    say(
        "",
        f"perplexity {_perplexity(final)}{_bits(final)}; best {best['val_loss']:.4f} at step {best['step']}",
    )
    if found.sample is not None:
        say("sample", f"temperature {TEMPERATURE}, also in {show(folder.samples)}:\n")
        tell(found.sample, end="\n\n")
    say("curves", show(folder.curves))
    say(
        "next",
        f"{line('sample', folder.path, '--prompt', 'The ')}\n{line('compare', folder.path)} OTHER_RUN",
    )


def _perplexity(record: Mapping[str, Any]) -> str:
    """Two digits; ``inf`` where it is too large for a number, which the log has as null."""
    value = record["val_perplexity"]
    return "inf" if value is None else f"{value:.2f}"


def _bits(record: Mapping[str, Any]) -> str:
    return f", {record['val_bits_per_char']:.3f} bits/character" if "val_bits_per_char" in record else ""


def draw(run: Run | Restored, params: Any) -> str:
    """A sample of the length that the run asks for."""
    how = {"max_tokens": run.config.sample_tokens, "temperature": TEMPERATURE, "seed": run.config.seed}
    return sample(run.model, params, run.tokenizer, **how)[0]
