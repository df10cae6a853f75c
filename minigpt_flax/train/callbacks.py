"""Hooks: ``(step, metrics)`` outside the step, called one step late so that the device never waits for the host."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxopt_mini.states import get_all
from minigpt_flax.errors import Diverged, Failed, Unsaved
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.loggers import Logger
from minigpt_flax.train.parallel.multihost import is_first

ALWAYS = ("loss", "lr", "grad_norm")  # are on record even where they are no number

Hook = Callable[[int, Mapping[str, Any]], None]
"""Called with the number of steps done and the metrics of the last of them, as NumPy values."""


class Guard:
    """Stops at a loss or gradient that isn't finite, and tells once when the gradient explodes.

    Args:
      names: of the gradients, in the order of ``grad_squares``.
      threshold: gradient norm above which ``warn`` is called.
      warn: takes the step, the norm and the name of the largest gradient.
      warned: the run has had its warning already.
      skips: steps in a row that may be left out.
    """

    def __init__(
        self,
        names: Sequence[str],
        threshold: float,
        warn: Callable[[int, float, str], None],
        *,
        warned: bool = False,
        skips: int = 0,
    ):
        self.names, self.threshold, self.warn, self.warned, self.skips = names, threshold, warn, warned, skips

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Looks at one step.

        Raises:
          Diverged: the loss or a gradient isn't finite, or too large to be squared; or so many steps were left out.
        """
        in_a_row = int(metrics.get("skipped_in_a_row", 0))
        if 0 < in_a_row <= self.skips:
            return
        loss, norm, squares = float(metrics["loss"]), float(metrics["grad_norm"]), metrics["grad_squares"]
        largest = self.names[int(np.argmax(squares))]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            broken = [name for name, square in zip(self.names, squares, strict=True) if not np.isfinite(square)]
            first = broken[0] if broken else f"none, largest {largest}"
            raise Diverged(
                f"loss {loss:g}, gradient norm {norm:g} at step {step}{_row(in_a_row)}; {len(broken)} of "
                f"{len(self.names)} gradients are not finite, first {first}",
                step,
            )
        if in_a_row:
            raise Diverged(f"the update of step {step} is not finite{_row(in_a_row)}", step)
        if norm > self.threshold and not self.warned:
            self.warned = True
            self.warn(step, norm, largest)


def _row(steps: int) -> str:
    return f", after {steps - 1} others in a row that were left out" if steps > 1 else ""


class LeftOut:
    """Tells of steps that were left out: of the first, the second, the fourth, the eighth, ...

    Args:
      opt_state: of the optimizer at the beginning: a continued run counts on.
      say: takes a line.
    """

    def __init__(self, opt_state: Any, say: Callable[[str], None]):
        self.skipped, self.say = sum(int(count) for count in get_all(opt_state, "skipped").values()), say

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Looks at one step."""
        before, self.skipped = self.skipped, int(metrics.get("skipped", 0))
        if self.skipped.bit_length() > before.bit_length():
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            self.say(f"step {step} was left out: loss {loss:.4g}, gradient norm {norm:.3g}; {self.skipped} so far")


def on_record(step: int, every: int) -> bool:
    """Whether the log keeps this step: the first, and every so many. Probes measure in these alone."""
    return step == 1 or step % every == 0


class Log:
    """Appends a line to ``metrics.jsonl`` every ``every`` steps. A number that isn't finite is ``null`` there.

    Lines that a full disk doesn't take wait in memory until it does.

    Args:
      folder: of the run.
      every: steps between lines.
      tokens_per_step: for the count of tokens.
      seconds: what the clock shows at the start: a continued run counts on.
      say: takes a line about lines that wait.
      loggers: get every record too, and are closed with the file.
    """

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        tokens_per_step: int,
        seconds: float = 0.0,
        say: Callable[[str], None] = print,
        loggers: Sequence[Logger] = (),
    ):
        self.folder, self.path, self.every = folder, folder.metrics, every
        self.tokens_per_step, self.say = tokens_per_step, say
        self.start, self.waiting, self.reason = time.monotonic() - seconds, b"", ""
        self.loggers = loggers

    def __enter__(self) -> Log:
        """Opens the file; only the first process writes."""
        try:
            self.file = files.open_append(self.path) if is_first() else None
        except OSError as error:
            raise Failed(f"can't write {show(self.path)}: {error.strerror}") from error
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Closes it.

        Raises:
          Failed: lines are lost.
        """
        self._flush()
        if self.file is not None:
            self.file.close()
        for logger in self.loggers:
            logger.close()
        if self.waiting and kind is None:
            raise Failed(f"can't write the last lines of {show(self.path)}: {self.reason}")

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records one step where it is due; the first, and one that broke, always are.

        A probe that has nothing to say of a step gives NaN, and is left out.
        """
        broke = not np.isfinite(metrics["loss"] + metrics["grad_norm"])
        if on_record(step, self.every) or broke:
            numbers = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
            measured = lambda name: name in ALWAYS or not math.isnan(numbers[name])
            self.write(step, {name: value for name, value in numbers.items() if measured(name)})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line at once, so that a crash loses none before it.

        Raises:
          Failed: the run's folder was moved or removed.
        """
        self._follow()
        seconds = round(time.monotonic() - self.start, 3)
        record = {"step": step, "tokens": step * self.tokens_per_step, "seconds": seconds}
        record |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.waiting += json.dumps(record).encode() + b"\n"
        self._flush()
        for logger in self.loggers:
            logger(record)

    def _follow(self) -> None:
        """Opens the file again if it was removed while the run's folder is still there."""
        if self.file is None:
            return
        self.folder.require_present()
        if os.fstat(self.file.fileno()).st_nlink == 0:
            self.say(f"{show(self.path)} was removed during the run: later lines go to a new file")
            self.file.close()
            self.file = files.open_append(self.path)

    def _flush(self) -> None:
        if self.file is None:
            self.waiting = b""
        try:
            while self.waiting and self.file is not None:
                self.waiting = self.waiting[self.file.write(self.waiting) :]  # a disk that fills up takes a part
        except OSError as error:
            if not self.reason:
                self.say(f"can't write {show(self.path)}: {error.strerror}; its lines wait in memory")
            self.reason = error.strerror

    def sync(self) -> None:
        """Brings the lines to the disk itself: before a checkpoint, which must not outlive what led to it.

        Raises:
          Unsaved: it doesn't take them all.
        Failed: the run's folder was moved or removed.
        """
        self._flush()
        self.folder.require_present()
        if self.waiting:
            raise Unsaved(f"can't write {show(self.path)}: {self.reason}")
        if self.file is not None:
            os.fsync(self.file.fileno())
