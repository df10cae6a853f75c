"""How a run speaks of itself: to a person, in records (``--json``), or only of what goes wrong (``--quiet``)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from minigpt_flax.cli.parser import Request
from minigpt_flax.console import live_plot, terminal
from minigpt_flax.console.output import line, tell
from minigpt_flax.invocation import show
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.build import Run
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.parallel.multihost import is_first
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.throughput import Speed


class Silent:
    """Says nothing but what goes wrong, on the error stream."""

    def note(self, text: str, **facts: Any) -> None:
        """Something to know; ``facts`` are the same for programs."""

    def warn(self, text: str) -> None:
        """Something has gone wrong, and the run goes on."""
        if is_first():
            tell(text, file=sys.stderr)

    def label(self, label: str, text: str) -> None:
        """A detail under its label."""

    def working(self, what: str) -> AbstractContextManager[None]:
        """Around something that may take long."""
        return nullcontext()

    def plan(self, run: Run, folder: RunFolder, done: int) -> None:
        """What the run will do."""

    def progress(self, config: RunConfig, done: int) -> terminal.Timekeeper:
        """What watches the steps."""
        return terminal.Timekeeper(self.warn)

    def speed(self, found: Speed) -> None:
        """How fast the sitting was."""

    def ending(self, run: Run, folder: RunFolder, state: TrainState) -> None:
        """What came of a finished run; its sample and curves are files in any case."""
        terminal.outcome(run, folder, state)


class Records(Silent):
    """One line of JSON for everything; ``event`` tells what it is."""

    def emit(self, event: str, **facts: Any) -> None:
        """Prints a record."""
        print(line({"event": event, **facts}), flush=True)

    def note(self, text: str, **facts: Any) -> None:
        """As a record."""
        self.emit("note", text=text, **facts)

    def warn(self, text: str) -> None:
        """As a record."""
        self.emit("warning", text=text)

    def label(self, label: str, text: str) -> None:
        """As a note."""
        self.note(f"{label}: {text}")

    def plan(self, run: Run, folder: RunFolder, done: int) -> None:
        """Folder, configuration, size and devices."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(run.shapes))
        devices = [str(device) for device in run.mesh.devices.flat]
        self.emit(
            "begin", run=show(folder.path), step=done, parameters=parameters, devices=devices, config=vars(run.config)
        )

    def progress(self, config: RunConfig, done: int) -> terminal.Timekeeper:
        """The lines of ``metrics.jsonl`` as they are written."""
        return terminal.Timekeeper(self.warn, (self,))

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Passes on a line of ``metrics.jsonl``, as a logger does."""
        self.emit("validation" if "val_loss" in record else "step", **record)

    def close(self) -> None:
        """Nothing is kept back."""

    def speed(self, found: Speed) -> None:
        """All figures."""
        self.emit("speed", **found.record())

    def ending(self, run: Run, folder: RunFolder, state: TrainState) -> None:
        """The last and the best validation, and the sample."""
        found = terminal.outcome(run, folder, state)
        if found is not None:
            self.emit("end", run=show(folder.path), last=found.final, best=found.best, sample=found.sample)


class Person(Silent):
    """Labelled lines, and a moving bar in a terminal, or with ``--watch`` the curves.

    Args:
      curves: draw them.
    """

    def __init__(self, curves: bool):
        self.shows = live_plot.Curves if curves else terminal.Progress

    def note(self, text: str, **facts: Any) -> None:
        """A line."""
        tell(text)

    def warn(self, text: str) -> None:
        """A line."""
        tell(text)

    def label(self, label: str, text: str) -> None:
        """A labelled line."""
        terminal.say(label, text)

    def working(self, what: str) -> AbstractContextManager[None]:
        """A bar without an end, in a terminal."""
        return terminal.working(what)

    def plan(self, run: Run, folder: RunFolder, done: int) -> None:
        """A page."""
        terminal.plan(run, folder, done)

    def progress(self, config: RunConfig, done: int) -> terminal.Timekeeper:
        """The bar, the curves, or a line now and then."""
        return self.shows(config, done)

    def speed(self, found: Speed) -> None:
        """Two lines."""
        terminal.say("speed", found.lines())

    def ending(self, run: Run, folder: RunFolder, state: TrainState) -> None:
        """Validation, sample, curves, and what to do next."""
        terminal.ending(run, folder, state)


def of(request: Request) -> Silent:
    """The voice that was asked for."""
    if request.output.json:
        return Records()
    return Silent() if request.output.quiet else Person(request.watch)
