"""Hooks: ``(step, metrics)`` outside the step, called one step late so that the device never waits for the host."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt_flax.train.folder import RunFolder, show
from minigpt_flax.train.processes import is_first
from minigpt_flax.train.stop import Diverged, Failed

Hook = Callable[[int, Mapping[str, Any]], None]
"""Called with the number of steps done and the metrics of the last of them, as NumPy values."""


class Guard:
    """Stops at a loss or gradient that isn't finite, and tells once when the gradient explodes.

    Args:
      names: of the gradients, in the order of ``grad_squares``.
      threshold: gradient norm above which ``warn`` is called.
      warn: takes the step, the norm and the name of the largest gradient.
      warned: the run has had its warning already.
    """

    def __init__(
        self, names: Sequence[str], threshold: float, warn: Callable[[int, float, str], None], warned: bool = False
    ):
        self.names, self.threshold, self.warn, self.warned = names, threshold, warn, warned

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Looks at one step.

        Raises:
          Diverged: the loss or a gradient isn't finite, or too large to be squared.
        """
        loss, norm, squares = float(metrics["loss"]), float(metrics["grad_norm"]), metrics["grad_squares"]
        largest = self.names[int(np.argmax(squares))]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            broken = [name for name, square in zip(self.names, squares, strict=True) if not np.isfinite(square)]
            raise Diverged(
                f"loss {loss:g}, gradient norm {norm:g} at step {step}; {len(broken)} of {len(self.names)} gradients "
                f"are not finite, first {broken[0] if broken else f'none, largest {largest}'}"
            )
        if norm > self.threshold and not self.warned:
            self.warned = True
            self.warn(step, norm, largest)


class Log:
    """Appends a line to ``metrics.jsonl`` every ``every`` steps. A number that isn't finite is ``null`` there.

    Args:
      folder: of the run.
      every: steps between lines.
      tokens_per_step: for the count of tokens.
      seconds: what the clock shows at the start: a continued run counts on.
    """

    def __init__(self, folder: RunFolder, every: int, tokens_per_step: int, seconds: float = 0.0):
        self.path, self.every, self.tokens_per_step = folder.metrics, every, tokens_per_step
        self.start = time.monotonic() - seconds

    def __enter__(self) -> Log:
        """Opens the file."""
        try:
            self.file = (self.path if is_first() else Path(os.devnull)).open("ab", buffering=0)
        except OSError as error:
            raise Failed(f"can't write {show(self.path)}: {error.strerror}") from error
        return self

    def __exit__(self, *error: Any) -> None:
        """Closes it."""
        self.sync()
        self.file.close()

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Records one step where it is due; the first, and one that broke, always are."""
        broke = not np.isfinite(metrics["loss"] + metrics["grad_norm"])
        if step % self.every == 0 or step == 1 or broke:
            self.write(step, {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line at once, so that a crash loses none before it.

        Raises:
          Failed: the file can't be written; the disk is full, say.
        """
        seconds = round(time.monotonic() - self.start, 3)
        record = {"step": step, "tokens": step * self.tokens_per_step, "seconds": seconds}
        record |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps(record).encode() + b"\n"
        try:
            if self.file.write(line) < len(line):  # what a disk does that is just now full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise Failed(f"can't write {show(self.path)} at step {step}: {error.strerror}") from error

    def sync(self) -> None:
        """Brings the lines to the disk itself: before a checkpoint, which must not outlive what led to it."""
        with contextlib.suppress(OSError):  # a pipe can't
            os.fsync(self.file.fileno())
