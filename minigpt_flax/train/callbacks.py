"""Callbacks: called outside the step, one step late so that the device never waits for the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxopt_mini.states import get_all
from minigpt_flax.errors import Diverged
from minigpt_flax.runs.metrics_log import MetricsLog
from minigpt_flax.runs.schema import SKIPPED, SKIPPED_IN_A_ROW

ALWAYS = ("loss", "grad_norm")  # are logged even where they aren't finite

StepCallback = Callable[[int, Mapping[str, Any]], None]
"""``(step, metrics)``: called with the number of steps done and the metrics of the last one, as NumPy values."""


class Callback:
    """Follows a run. Override what you need; a plain function ``(step, metrics)`` is a callback too."""

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Called after every step, one step late.

        Args:
          step: number of steps done.
          metrics: of the last one, NumPy scalars: ``loss``, ``lr``, ``grad_norm``, and those of the probes.
        """

    def on_validation(self, step: int, results: Mapping[str, float]) -> None:
        """Called after every validation with ``val_loss``, ``val_sem``, ``val_perplexity``, ..."""


class _StepFunction(Callback):
    """A function as a callback."""

    def __init__(self, function: StepCallback):
        self.function = function

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.function(step, metrics)


def as_callback(callback: Callback | StepCallback) -> Callback:
    """Returns an object with the methods of :class:`Callback`."""
    return callback if isinstance(callback, Callback) else _StepFunction(callback)


def on_record(step: int, every: int) -> bool:
    """Whether a step is logged: the first, and every ``every``-th. Probes measure only in logged steps."""
    return step == 1 or step % every == 0


class Recorder(Callback):
    """Logs the steps that are due, and every validation.

    Args:
      log: takes the records.
      every: steps between records.
      skips: number of successive steps that may be skipped; the step after them ends the run, and counts as diverged.
    """

    def __init__(self, log: MetricsLog, every: int, *, skips: int = 0):
        self.log, self.every, self.skips = log, every, skips

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs a step if it is due; the first step and a non-finite step always are.

        A probe that doesn't measure in a step returns NaN, which isn't logged.
        """
        finite = np.isfinite(metrics["loss"] + metrics["grad_norm"])
        if on_record(step, self.every) or not finite:
            left_out = (SKIPPED, SKIPPED_IN_A_ROW) if metrics.get(SKIPPED_IN_A_ROW, 0) > self.skips else ()
            scalars = {name: value for name, value in metrics.items() if np.ndim(value) == 0}
            numbers = {name: float(value) for name, value in scalars.items() if name not in left_out}
            kept = {name: value for name, value in numbers.items() if name in ALWAYS or not math.isnan(value)}
            self.log.write(step, kept)

    def on_validation(self, step: int, results: Mapping[str, float]) -> None:
        """Logs a validation."""
        self.log.write(step, results)


class NonFiniteGuard(Callback):
    """Stops at a non-finite loss or gradient, and warns once when the gradient norm explodes.

    Args:
      names: of the tensors, in the order of ``grad_squares``.
      threshold: gradient norm above which ``warn`` is called.
      warn: called with the step, the norm and the name of the largest gradient.
      warned: whether the warning was given before.
      skips: number of successive steps that may be skipped.
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

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Checks one step.

        Raises:
          Diverged: the loss or a gradient isn't finite, or its square overflows; or too many steps were skipped.
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
    return f", after {steps - 1} successive steps that were skipped" if steps > 1 else ""


class SkippedSteps(Callback):
    """Reports skipped steps: the first, the second, the fourth, the eighth, ...

    Args:
      opt_state: of the optimizer at the beginning: a resumed run continues to count.
      warn: called with a line.
    """

    def __init__(self, opt_state: Any, warn: Callable[[str], None]):
        self.skipped, self.warn = sum(int(count) for count in get_all(opt_state, "skipped").values()), warn

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Checks one step."""
        before, self.skipped = self.skipped, int(metrics.get("skipped", 0))
        if self.skipped.bit_length() > before.bit_length():
            loss, norm = float(metrics["loss"]), float(metrics["grad_norm"])
            self.warn(f"step {step} was skipped: loss {loss:.4g}, gradient norm {norm:.3g}; {self.skipped} so far")
