"""Sizes of a batch that change during a run: ``--batch-size "[(0, 8), (500, 16)]"``. Imports no JAX.

A point is (time, size): the size holds from that time until the next point, and the first one also before. A time is a
number of steps (an int), or a fraction of the run (a float). A phase is a part of a run with batches of one shape.

The position in the data is exact. Windows have the longest sequence length; an epoch visits each of them once, whatever
the batch size. A shorter sequence is a part of a window, and successive steps read the parts of the same windows.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.text import shortened

SIZES = ("batch_size", "accum", "seq_len")  # fields that may change during a run
LONGEST = 10_000  # characters of a list of points


@dataclass(frozen=True)
class Stepwise:
    """A size that changes during a run.

    Attributes:
      points: (time, size), the times increasing.
    """

    points: tuple[tuple[int | float, int], ...]

    def __str__(self) -> str:
        """The text that :func:`parse_size` reads."""
        return f"[{', '.join(f'({time!r}, {size})' for time, size in self.points)}]"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        """The text, whatever the format of a plain number would be."""
        return str(self)

    def in_steps(self, steps: int) -> Stepwise:
        """The same with every time as a number of steps, in a run of ``steps``.

        Raises:
          UserError: two times are at the same step.

        >>> Stepwise(((0, 8), (0.5, 16))).in_steps(100)
        [(0, 8), (50, 16)]
        """
        times = [round(time * steps) if isinstance(time, float) else time for time, _ in self.points]
        if sorted(set(times)) != times:
            raise UserError(f"{self}: in a run of {steps:,} steps the times don't increase; they become {times}")
        return Stepwise(tuple(zip(times, sizes_of(self), strict=True)))

    def at(self, step: int) -> int:
        """The size in a step, from 0; its times are numbers of steps."""
        return self.points[max(0, bisect_right([time for time, _ in self.points], step) - 1)][1]


Size = int | Stepwise
"""A size of a batch: constant, or changing during the run."""


def parse_size(value: Any, flag: str) -> Size:
    """Parses a size: a whole number, or a list of points.

    Args:
      value: text, a number, or a sequence of pairs.
      flag: for errors.

    Raises:
      UserError: it is neither.

    >>> parse_size("12", "--batch-size"), parse_size("[(0, 8), (0.5, 16)]", "--batch-size")
    (12, [(0, 8), (0.5, 16)])
    """
    given = value
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip()) if len(value) <= LONGEST else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if isinstance(value, Stepwise) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    points = tuple(value) if isinstance(value, list | tuple) else ()
    if not points or not all(map(_is_point, points)):
        raise UserError(
            f"{flag} takes a whole number, or points (time, size) such as [(0, 8), (500, 16)], with times in steps or "
            f"as fractions of the run from 0.0 to 1.0; got {shortened(repr(given))}"
        )
    times = [time for time, _ in points]
    if all(type(time) is type(times[0]) for time in times) and sorted(set(times)) != times:
        raise UserError(f"{flag} {shortened(str(list(points)))}: the times must increase; sort the points by time")
    return Stepwise(tuple((time, size) for time, size in points))


def _is_point(point: Any) -> bool:
    if not isinstance(point, list | tuple) or len(point) != 2:
        return False
    time, size = point
    fraction = isinstance(time, float) and 0 <= time <= 1
    return type(size) is int and (fraction or (type(time) is int and time >= 0))


def sizes_of(size: Size | None) -> tuple[int, ...]:
    """All values of a size.

    >>> sizes_of(12), sizes_of(Stepwise(((0, 8), (5, 16)))), sizes_of(None)
    ((12,), (8, 16), ())
    """
    if isinstance(size, Stepwise):
        return tuple(value for _, value in size.points)
    return () if size is None else (size,)


@dataclass(frozen=True)
class Phase:
    """A part of a run with batches of one shape.

    Attributes:
      first: steps before it.
      accum: micro-batches per step.
      batch_size: sequences per micro-batch.
      seq_len: tokens per sequence.
      windows: number of windows read before it.
      tokens: tokens trained on before it.
    """

    first: int
    accum: int
    batch_size: int
    seq_len: int
    windows: int = 0
    tokens: int = 0

    @property
    def step_sequences(self) -> int:
        """Sequences per step."""
        return self.accum * self.batch_size

    @property
    def step_tokens(self) -> int:
        """Tokens per step."""
        return self.step_sequences * self.seq_len

    def __str__(self) -> str:
        """The shape: micro-batches (if several) x sequences x tokens."""
        sizes = [self.batch_size, self.seq_len] if self.accum == 1 else [self.accum, self.batch_size, self.seq_len]
        return f"{self.step_tokens:,} tokens = {' x '.join(map(str, sizes))}"


@dataclass(frozen=True)
class Phases:
    """The phases of a run, in order; an iterable.

    Attributes:
      phases: at least one.
      window: tokens of a window of the data: the longest sequence.
    """

    phases: tuple[Phase, ...]
    window: int

    def __iter__(self) -> Iterator[Phase]:
        """The phases."""
        return iter(self.phases)

    def __len__(self) -> int:
        """The number of phases."""
        return len(self.phases)

    def at(self, step: int) -> Phase:
        """The phase of a step, from 0."""
        return self.phases[bisect_right([phase.first for phase in self.phases], step) - 1]

    def tokens_after(self, steps: int | float) -> int | float:
        """Tokens trained on in the first ``steps`` steps, a whole number if ``steps`` is one; else interpolated.

        >>> phases_of(10, Stepwise(((0, 2), (4, 6))), 1, 8).tokens_after(5)
        112
        """
        phase = self.at(max(0, math.ceil(steps) - 1))
        return phase.tokens + (steps - phase.first) * phase.step_tokens

    @property
    def largest(self) -> Phase:
        """The phase with the most tokens per step."""
        return max(self.phases, key=lambda phase: phase.step_tokens)

    def of_batches(self, skipped: Iterable[int]) -> Phases:
        """The same phases with times in batches, some of which no step uses: a phase reads those skipped in it as well.

        Args:
          skipped: numbers of batches, sorted.

        >>> [phase.first for phase in phases_of(10, Stepwise(((0, 2), (4, 6))), 1, 8).of_batches([1, 7])]
        [0, 5]
        """
        found: list[Phase] = []
        for phase in self:
            shifted = dataclasses.replace(phase, first=batch_number(phase.first - 1, skipped) + 1)
            found.append(_after(found[-1], shifted, self.window) if found else shifted)
        return Phases(tuple(found), self.window)


def batch_number(step: int, skipped: Iterable[int]) -> int:
    """Number of the batch of a step: the ``step``-th of all that aren't in ``skipped``, which is sorted.

    >>> [batch_number(step, [1, 2, 4]) for step in range(4)]
    [0, 3, 5, 6]
    """
    for batch in skipped:
        step += batch <= step
    return step


@functools.lru_cache(maxsize=1024)
def phases_of(steps: int, batch_size: Size, accum: Size, seq_len: Size) -> Phases:
    """The phases of a run.

    Args:
      steps: of the run.
      batch_size: sequences per micro-batch.
      accum: micro-batches per step.
      seq_len: tokens per sequence.

    Raises:
      UserError: two times of a size are at the same step.
    """
    points = lambda size: size.in_steps(steps) if isinstance(size, Stepwise) else Stepwise(((0, size),))
    sizes = [points(size) for size in (accum, batch_size, seq_len)]
    times = {round(time) for size in sizes for time, _ in size.points if time < steps}
    window, found = max(sizes_of(seq_len)), list[Phase]()
    for first in sorted({0, *times}):
        accum, batch_size, seq_len = (size.at(first) for size in sizes)
        phase = Phase(first, accum, batch_size, seq_len)
        if found and phase == dataclasses.replace(found[-1], first=first, windows=0, tokens=0):
            continue  # nothing changes
        found.append(_after(found[-1], phase, window) if found else phase)
    return Phases(tuple(found), window)


def _after(last: Phase, phase: Phase, window: int) -> Phase:
    """A phase with the number of windows and tokens before it."""
    steps, parts = phase.first - last.first, max(1, window // max(1, last.seq_len))
    windows = last.windows + -(-steps // parts) * last.step_sequences
    return dataclasses.replace(phase, windows=windows, tokens=last.tokens + steps * last.step_tokens)


def check_phases(phases: Phases, context: int) -> None:
    """Checks the sequence lengths: they fit the model, and every window of the data is read to its end.

    Raises:
      UserError: a length exceeds the context, doesn't divide the longest, or changes within a window.
    """
    window = phases.window
    if window > context:
        raise UserError(
            f"--seq-len {window:,} is more than the model's context of {context:,} tokens: lower it, or raise --context"
        )
    for phase, after in zip(phases, [*phases.phases[1:], None], strict=True):
        if window % phase.seq_len:
            possible = [n for n in range(1, window + 1) if window % n == 0]
            raise UserError(
                f"--seq-len {phase.seq_len:,} does not divide the longest sequence of {window:,} tokens: use one of "
                f"{', '.join(map(str, possible[-8:]))}"
            )
        parts = window // phase.seq_len
        if after is not None and (after.first - phase.first) % parts:
            near = phase.first + (after.first - phase.first) // parts * parts
            raise UserError(
                f"the batches of {phase} change at step {after.first:,}, in the middle of windows of {window:,} "
                f"tokens, which {parts} steps read: change them at step {near or parts:,} or {near + parts:,}"
            )


def as_sizes(values: Mapping[str, Any]) -> Phases:
    """The phases of a configuration, by its fields."""
    length = values["context"] if values["seq_len"] is None else values["seq_len"]
    return phases_of(values["steps"], values["batch_size"], values["accum"], length)
