"""Interface of reporters, which show progress and results of a run; implemented in ``minigpt_flax.console``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from minigpt_flax.train.callbacks import Callback
from minigpt_flax.train.clock import Clock

if TYPE_CHECKING:
    from minigpt_flax.phases import Phases
    from minigpt_flax.runs.folder import RunFolder
    from minigpt_flax.runs.loggers import Logger
    from minigpt_flax.train.artifacts import Outcome
    from minigpt_flax.train.build import Run
    from minigpt_flax.train.config.run_config import RunConfig
    from minigpt_flax.train.throughput import Speed


class StepTimer(Callback):
    """Times the steps; base class of the progress displays.

    Args:
      warn: called with the text of a warning.
      loggers: receive every record of ``metrics.jsonl``.
      note: called with the text of a note.
      phases: of the run.
    """

    def __init__(
        self,
        warn: Callable[[str], None] = lambda text: None,
        loggers: Sequence[Logger] = (),
        note: Callable[[str], None] = lambda text: None,
        phases: Phases | None = None,
    ):
        self.warn, self.loggers, self.note, self.phases, self.clock = warn, loggers, note, phases, Clock()

    def __enter__(self) -> StepTimer:
        """Begins."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends."""

    def on_step(self, step: int, metrics: Any) -> None:
        """Counts a step."""
        self.clock.step(None if self.phases is None else self.phases.at(step - 1))

    def on_validation(self, step: int, results: Any) -> None:
        """Counts a validation."""
        self.clock.pause()

    def validating(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns the function that a validation calls before every batch; it tells whether to stop."""
        return stop


class Reporter:
    """Base class of reporters; reports nothing."""

    def note(self, text: str, **facts: Any) -> None:
        """Reports a note; ``facts`` is its machine-readable form."""

    def warn(self, text: str) -> None:
        """Reports a warning; training continues."""

    def label(self, label: str, text: str) -> None:
        """Reports a labeled line."""

    def working(self, what: str) -> AbstractContextManager[None]:
        """A context for a task that may take long."""
        return nullcontext()

    def plan(self, run: Run, folder: RunFolder | None, done: int) -> None:
        """Reports the summary before training."""

    def progress(self, config: RunConfig, done: int) -> StepTimer:
        """Returns the progress display, which follows the steps."""
        return StepTimer(self.warn, phases=config.phases)

    def speed(self, found: Speed) -> None:
        """Reports the throughput."""

    def finished(self, folder: RunFolder | None, outcome: Outcome) -> None:
        """Reports the results of a finished run."""
