"""Reporters: what a run prints, for a terminal, as JSON lines, or warnings only."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

from minigpt_flax.console import live_plot, terminal
from minigpt_flax.console.output import Output, line
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.text import tell
from minigpt_flax.train.artifacts import Outcome
from minigpt_flax.train.build import Run
from minigpt_flax.train.config.run_config import RunConfig, as_text
from minigpt_flax.train.parallel.multihost import is_first
from minigpt_flax.train.reporter import Reporter, StepTimer
from minigpt_flax.train.throughput import Speed


class Quiet(Reporter):
    """Prints warnings only, to standard error."""

    def warn(self, text: str) -> None:
        """Prints a line."""
        if is_first():
            tell(text, file=sys.stderr)


class JsonLines(Reporter):
    """Prints everything as JSON, one record per line; its ``event`` is its kind."""

    def emit(self, event: str, **facts: Any) -> None:
        """Prints a record."""
        print(line({"event": event, **facts}), flush=True)

    def note(self, text: str, **facts: Any) -> None:
        """Prints a record."""
        self.emit("note", text=text, **facts)

    def warn(self, text: str) -> None:
        """Prints a record."""
        self.emit("warning", text=text)

    def label(self, label: str, text: str) -> None:
        """Prints a note."""
        self.note(f"{label}: {text}")

    def plan(self, run: Run, folder: RunFolder | None, done: int) -> None:
        """Prints a record: folder, configuration, number of parameters, devices."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.shapes))
        devices = [str(device) for device in run.mesh.devices.flat]
        path = None if folder is None else show(folder.path)
        self.emit("begin", run=path, step=done, parameters=parameters, devices=devices, config=as_text(run.config))

    def progress(self, config: RunConfig, done: int) -> StepTimer:
        """Prints the records of ``metrics.jsonl`` as they are written."""
        return StepTimer(self.warn, (self,), self.note, config.phases)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Prints a record of ``metrics.jsonl``, as a logger does."""
        self.emit("validation" if "val_loss" in record else "step", **record)

    def close(self) -> None:
        """Does nothing; every record is printed at once."""

    def speed(self, speed: Speed) -> None:
        """Prints all figures as a record."""
        self.emit("speed", **speed.record())

    def finished(self, folder: RunFolder | None, outcome: Outcome) -> None:
        """Prints the last and the best validation, and the sample."""
        path = None if folder is None else show(folder.path)
        self.emit("end", run=path, last=outcome.final, best=outcome.best, sample=outcome.sample)


class Terminal(Reporter):
    """Prints labeled lines; in a terminal also a progress bar, or with ``--watch`` the curves.

    Args:
      curves: draw the curves.
    """

    def __init__(self, curves: bool = False):
        self.shows = live_plot.LivePlot if curves else terminal.ProgressBar

    def note(self, text: str, **facts: Any) -> None:
        """Prints a line."""
        tell(text)

    def warn(self, text: str) -> None:
        """Prints a line."""
        tell(text)

    def label(self, label: str, text: str) -> None:
        """Prints a labeled line."""
        terminal.say(label, text)

    def working(self, what: str) -> AbstractContextManager[None]:
        """Shows an indeterminate progress bar, in a terminal."""
        return terminal.working(what)

    def plan(self, run: Run, folder: RunFolder | None, done: int) -> None:
        """Prints the summary."""
        terminal.plan(run, folder, done)

    def progress(self, config: RunConfig, done: int) -> StepTimer:
        """Shows a bar, the curves, or periodic lines."""
        return self.shows(config, done)

    def speed(self, speed: Speed) -> None:
        """Prints three lines."""
        terminal.say("speed", speed.lines())

    def finished(self, folder: RunFolder | None, outcome: Outcome) -> None:
        """Prints validation, sample, curves, and what to do next."""
        terminal.finished(folder, outcome)


def reporter_for(output: Output, curves: bool = False) -> Reporter:
    """Returns the reporter for ``--quiet``, ``--json`` or ``--watch``."""
    if output.json:
        return JsonLines()
    return Quiet() if output.quiet else Terminal(curves)
