"""A run in the terminal: summary, progress, results. Colors and a moving bar only if it is a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from minigpt_flax.console.summary import LABEL, summary
from minigpt_flax.invocation import line, show
from minigpt_flax.progress import Progress
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.text import printable, tell
from minigpt_flax.train.artifacts import Outcome
from minigpt_flax.train.build import Run
from minigpt_flax.train.clock import shorten, spell
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.reporter import StepTimer
from minigpt_flax.train.sample import TEMPERATURE

WIDTH = 12  # columns of the bar; its text takes the others
REFRESH = 0.1  # seconds between two updates of the bar
LINES = 20  # lines of progress without a terminal, about
LINE_INTERVAL = 60.0  # seconds between two such lines, at most


def say(label: str, text: str) -> None:
    """Prints a label and its text."""
    body = printable(text).replace("\n", "\n" + " " * LABEL)
    Console(highlight=False, soft_wrap=True).print(Text.assemble((f"{label:{LABEL}s}", "bold"), body))


def plan(run: Run, folder: RunFolder | None, done: int) -> None:
    """Prints the summary of a run."""
    where = "not saved to disk" if folder is None else show(folder.path)
    say("run", f"{where}: steps {done:,} to {run.config.steps:,}, seed {run.config.seed}")
    for label, text in summary(run):
        say(label, text)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows an indeterminate progress bar; without a terminal, a line now and then if the task takes long."""
    with Progress("TimeElapsedColumn", width=WIDTH) as progress, progress.waiting(what):
        yield


class ProgressBar(StepTimer):
    """Shows the progress of the steps: a moving line in a terminal, periodic lines elsewhere.

    Args:
      config: of the run.
      done: steps done before.
    """

    def __init__(self, config: RunConfig, done: int):
        super().__init__(self.print, note=self.print, phases=config.phases)
        self.config = config
        progress = Progress(width=WIDTH, auto_refresh=False)
        self.console, self.bar = progress.console, progress.bar
        self.task = progress.add("compiling the step ...", config.steps, done)
        self.every = max(config.log_every, config.steps // LINES)
        self.done, self.shown, self.best = done, time.monotonic(), math.inf

    def __enter__(self) -> ProgressBar:
        """Shows the bar, or prints a line."""
        if self.console.is_terminal:
            self.bar.start()
            self.bar.refresh()
        else:
            self.warn("compiling the step ...")
        return self

    def __exit__(self, *error: Any) -> None:
        """Removes the bar."""
        self.bar.stop()

    def print(self, line: str) -> None:
        """Prints a line, above the bar."""
        self.console.print(Text(printable(line)))

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows a step."""
        super().on_step(step, metrics)
        self.done = step
        if self._due() or (step % self.every == 0 and not self.console.is_terminal):
            self._show(self._text(step, metrics))

    def _due(self) -> bool:
        return time.monotonic() - self.shown > (REFRESH if self.console.is_terminal else LINE_INTERVAL)

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        if self.console.is_terminal:
            self.move(self.done, text)
        else:
            self.warn(f"step {text}")

    def move(self, step: int, text: str) -> None:
        """Updates the line of a terminal."""
        self.bar.update(self.task, completed=step, description=text, refresh=True)

    def _text(self, step: int, metrics: Mapping[str, Any]) -> str:
        """Formats a step in at most 66 columns, which leaves room for the bar."""
        loss, lr, norm = (float(metrics[name]) for name in ("loss", "lr", "grad_norm"))
        rate = "" if math.isnan(lr) else f" lr {lr:.1e}"
        return f"{step}/{self.config.steps} loss {loss:.4f}{rate} grad {norm:.2g}{self._speed(step)}"

    def _speed(self, step: int) -> str:
        speed, every, steps = self.clock.steps_per_second(), self.config.eval_every, self.config.steps
        phases = self.config.phases
        tokens = self.clock.mean(lambda phase: phase.step_tokens, phases.at(step))
        to_go = phases.tokens_after(steps) - phases.tokens_after(step)
        left = self.clock.left(to_go / tokens, -(-steps // every) - step // every)
        if speed is None or left is None:
            return ""
        return f" {shorten(speed * tokens)} tok/s {spell(left)} left"

    def validating(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Wraps ``stop`` so that it also shows how long the validation has taken, and its usual duration."""
        start, usual = time.monotonic(), self.clock.pause_seconds()

        def asked() -> bool:
            if self._due():
                about = "" if usual is None else f" of about {spell(usual)}"
                self._show(f"{self.done}/{self.config.steps} validating, {spell(time.monotonic() - start)}{about}")
            return stop()

        return asked

    def on_validation(self, step: int, results: Mapping[str, float]) -> None:
        """Shows a validation."""
        super().on_validation(step, results)
        loss, best = results["val_loss"], self.best
        self.best = min(loss, best)
        self.warn(
            f"step {step}: validation loss {loss:.4f} +- {results['val_sem']:.4f}{', best' if loss < best else ''}"
        )


def finished(folder: RunFolder | None, outcome: Outcome) -> None:
    """Prints the results of a finished run."""
    final, best = outcome.final, outcome.best
    say("validation", f"loss {final['val_loss']:.4f} +- {final['val_sem']:.4f} nats/token, over the whole split")
    best_loss = f"best {best['val_loss']:.4f} at step {best['step']}"
    say("", f"perplexity {_perplexity(final)}{_bits(final)}; {best_loss}")
    if folder is None:
        return
    if outcome.sample is not None:
        say("sample", f"temperature {TEMPERATURE}, also in {show(folder.samples)}:\n")
        tell(outcome.sample, end="\n\n")
    say("curves", show(folder.curves))
    prompt = ("--prompt", outcome.prompt) if outcome.prompt else ()
    say("next", f"{line('sample', folder.path, *prompt)}\n{line('compare', folder.path)} OTHER_RUN")


def _perplexity(record: Mapping[str, Any]) -> str:
    """Formats with two digits; ``inf`` if it overflows, which is null in the log."""
    value = record["val_perplexity"]
    return "inf" if value is None else f"{value:.2f}"


def _bits(record: Mapping[str, Any]) -> str:
    return f", {record['val_bits_per_char']:.3f} bits/character" if "val_bits_per_char" in record else ""
