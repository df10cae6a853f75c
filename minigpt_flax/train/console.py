"""What a person sees of a run: the plan, the progress, the ending. Colours and a moving bar only in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn
from rich.text import Text

from minigpt_flax.invoked import line
from minigpt_flax.lab.records import read_run, show
from minigpt_flax.train.build import Run
from minigpt_flax.train.clock import Clock, shorten, spell
from minigpt_flax.train.config import RunConfig
from minigpt_flax.train.folder import RunFolder
from minigpt_flax.train.plan import LABEL, plan as plan_of
from minigpt_flax.train.processes import is_first
from minigpt_flax.train.sample import TEMPERATURE, sample
from minigpt_flax.train.sharding import local
from minigpt_flax.train.state import TrainState

REFRESH = 0.1  # seconds between two movements of the bar
LINES = 20  # lines of progress where there is no terminal, about
PATIENCE = 60.0  # seconds without a line there, at most


def say(label: str, text: str) -> None:
    """Prints a label and what belongs to it."""
    body = text.replace("\n", "\n" + " " * LABEL)
    Console(highlight=False, soft_wrap=True).print(Text.assemble((f"{label:{LABEL}s}", "bold"), body))


def plan(run: Run, folder: RunFolder, done: int) -> None:
    """Says what the run will do."""
    say("run", f"{show(folder.path)}: steps {done:,} to {run.config.steps:,}, seed {run.config.seed}")
    for label, text in plan_of(run):
        say(label, text)


class Progress:
    """A hook that shows where the run stands: a moving line in a terminal, now and then a line elsewhere.

    Args:
      config: of the run.
      done: steps that are done already.
    """

    def __init__(self, config: RunConfig, done: int):
        self.config = config
        self.console = Console(highlight=False, soft_wrap=True)
        columns = [BarColumn(12), TextColumn("{task.description}", markup=False)]
        self.bar = Bar(*columns, console=self.console, auto_refresh=False, transient=True)
        self.task = self.bar.add_task("compiling the step ...", total=config.steps, completed=done)
        self.every = max(config.log_every, config.steps // LINES)
        self.clock, self.shown, self.best = Clock(), time.monotonic(), math.inf

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

    def say(self, line: str) -> None:
        """Prints a line, above the bar."""
        self.console.print(Text(line))

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows a step."""
        self.clock.step()
        idle = time.monotonic() - self.shown
        if self.console.is_terminal:
            due = idle > REFRESH
        else:
            due = step % self.every == 0 or idle > PATIENCE
        if not due:
            return
        self.shown = time.monotonic()
        text = self._text(step, metrics)
        if self.console.is_terminal:
            self.move(step, text)
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

    def validated(self, step: int, results: Mapping[str, float]) -> None:
        """Shows a validation."""
        self.clock.pause()
        loss, known = results["val_loss"], self.best
        self.best = min(loss, known)
        self.say(
            f"step {step}: validation loss {loss:.4f} +- {results['val_sem']:.4f}{', best' if loss < known else ''}"
        )


def ending(run: Run, folder: RunFolder, state: TrainState) -> None:
    """Says what came of a finished run, draws its curves and samples from it."""
    params = local(state.evaluation_params, run.mesh)
    if not is_first():
        return
    from minigpt_flax.lab.plots import curves  # Matplotlib, which takes long to import

    record = read_run(folder.path)
    final, best, path = record.final, record.best, show(folder.path)
    if final is None or best is None:
        return
    say("validation", f"loss {final['val_loss']:.4f} +- {final['val_sem']:.4f} nats/token, over the whole split")
    say(
        "",
        f"perplexity {final['val_perplexity']:.2f}{_bits(final)}; best {best['val_loss']:.4f} at step {best['step']}",
    )
    if run.config.sample_tokens:
        text = draw(run, params)
        folder.samples.write_text(text, encoding="utf-8")
        say("sample", f"temperature {TEMPERATURE}, also in {show(folder.samples)}:\n")
        print(text, end="\n\n")
    curves(record.records, folder.curves, f"{record.name}: {run.config.opt}")
    say("curves", show(folder.curves))
    say(
        "go on",
        f'{line("sample")} {path} --prompt "The "\n{line("compare")} {path} OTHER_RUN',
    )


def _bits(record: Mapping[str, Any]) -> str:
    return f", {record['val_bits_per_char']:.3f} bits/character" if "val_bits_per_char" in record else ""


def draw(run: Run, params: Any) -> str:
    """A sample of the length that the run asks for."""
    how = {"max_tokens": run.config.sample_tokens, "temperature": TEMPERATURE, "seed": run.config.seed}
    return sample(run.model, params, run.tokenizer, **how)[0]
