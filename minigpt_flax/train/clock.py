"""Step timing: the speed of training alone, and the remaining time of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigpt_flax.phases import Phase


class Clock:
    """Times steps, except those that wait for the compiler or a validation.

    Attributes:
      steps: number of timed steps.
      seconds: their duration.
      timed: their number in each phase.
    """

    def __init__(self):
        self.last = time.monotonic()
        self.steps, self.seconds = 0, 0.0
        self.pauses, self.paused = 0, 0.0
        self.timed: Counter[Phase | None] = Counter()
        self._counts = False

    def step(self, phase: Phase | None = None) -> float:
        """Records the end of a step, and its phase; returns the seconds since the last event."""
        elapsed = self._lap()
        if self._counts:
            self.steps, self.seconds = self.steps + 1, self.seconds + elapsed
            self.timed[phase] += 1
        self._counts = True
        return elapsed

    def pause(self) -> None:
        """Records the end of a validation."""
        self.pauses, self.paused = self.pauses + 1, self.paused + self._lap()
        self._counts = False

    def interrupt(self) -> None:
        """Excludes the next step from the timed ones, because it waits for the compiler."""
        self._counts = False

    def steps_per_second(self) -> float | None:
        """Mean speed; None before any step was timed."""
        return self.steps / self.seconds if self.seconds > 0 else None

    def mean(self, of: Callable[[Phase], int], otherwise: Phase) -> float:
        """Mean of a function of the phase over the timed steps; that of ``otherwise`` before any step was timed."""
        timed = {phase: count for phase, count in self.timed.items() if phase is not None} or {otherwise: 1}
        return sum(of(phase) * count for phase, count in timed.items()) / sum(timed.values())

    def left(self, steps: int | float, pauses: int) -> float | None:
        """Estimates the seconds that so many steps and validations will take; None before any step was timed."""
        speed = self.steps_per_second()
        return None if speed is None else steps / speed + pauses * (self.pause_seconds() or 0.0)

    def pause_seconds(self) -> float | None:
        """Mean duration of a validation; None before the first."""
        return self.paused / self.pauses if self.pauses else None

    def _lap(self) -> float:
        before, self.last = self.last, time.monotonic()
        return self.last - before


def spell(seconds: float) -> str:
    """Formats a duration.

    >>> spell(75.0), spell(3725.0)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shorten(number: float | int) -> str:
    """Formats a number in four or five characters.

    >>> shorten(876.0), shorten(12345.0), shorten(1.5e6), shorten(98765432.0)
    ('876', '12.3k', '1.50M', '98.8M')
    """
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number >= 100 * size else f"{number / size:#.3g}{unit}"
    return f"{number:.0f}"


def quantity(number: float | int, unit: str) -> str:
    """Formats a number in four or five characters, with its unit.

    >>> quantity(6.1e10, "FLOP/s"), quantity(12.0, "B")
    ('61.0 GFLOP/s', '12 B')
    """
    text = shorten(number)
    return f"{text[:-1]} {text[-1]}{unit}" if text[-1].isalpha() else f"{text} {unit}"
