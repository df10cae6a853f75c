"""What a run reports while it is prepared, trained and finished; ``minigpt_flax.console`` shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from minigpt_flax.train.callbacks import Callback
from minigpt_flax.train.clock import Clock

if TYPE_CHECKING:
    from minigpt_flax.runs.folder import RunFolder
    from minigpt_flax.runs.loggers import Logger
    from minigpt_flax.train.artifacts import Outcome
    from minigpt_flax.train.build import Run
    from minigpt_flax.train.config.run_config import RunConfig
    from minigpt_flax.train.throughput import Speed


class StepTimer(Callback):
    """Times the steps; what shows their progress derives from it.

    Args:
      warn: called with a line about something that went wrong.
      loggers: get every record of ``metrics.jsonl``.
    """

    def __init__(self, warn: Callable[[str], None] = lambda text: None, loggers: Sequence[Logger] = ()):
        self.warn, self.loggers, self.clock = warn, loggers, Clock()

    def __enter__(self) -> StepTimer:
        """Begins."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends."""

    def on_step(self, step: int, metrics: Any) -> None:
        """Counts a step."""
        self.clock.step()

    def on_validation(self, step: int, results: Any) -> None:
        """Counts a validation."""
        self.clock.pause()

    def validating(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns what a validation calls before every batch: whether to stop."""
        return stop


class Reporter:
    """What a run reports; this one reports nothing."""

    def note(self, text: str, **facts: Any) -> None:
        """Reports something to know; ``facts`` are the same for programs."""

    def warn(self, text: str) -> None:
        """Reports something that went wrong while training continues."""

    def label(self, label: str, text: str) -> None:
        """Reports a detail under its label."""

    def working(self, what: str) -> AbstractContextManager[None]:
        """Surrounds something that may take long."""
        return nullcontext()

    def plan(self, run: Run, folder: RunFolder | None, done: int) -> None:
        """Reports what the run will do."""

    def progress(self, config: RunConfig, done: int) -> StepTimer:
        """Returns what follows the steps."""
        return StepTimer(self.warn)

    def speed(self, found: Speed) -> None:
        """Reports how fast the training was."""

    def finished(self, folder: RunFolder | None, outcome: Outcome) -> None:
        """Reports the results of a finished run."""
