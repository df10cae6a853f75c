"""``--profile``: trace some steps with JAX's profiler: device activity, and the time it waits for the host."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from minigpt_flax.errors import UserError

FORM = "--profile takes FIRST:LAST, two step numbers such as 10:15"


def read_steps(text: str, done: int, last: int) -> tuple[int, int]:
    """Reads ``FIRST:LAST``, both inclusive and counted from 1 as in the log.

    >>> read_steps("10:15", done=0, last=100)
    (10, 15)

    Args:
      text: value of the flag.
      done: steps done before.
      last: the last step of the run.

    Raises:
      UserError: it isn't of that form, or not all of these steps are still to come.
    """
    match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    if match is None:
        raise UserError(f"{FORM}, got {text!r}")
    first, end = int(match[1]), int(match[2])
    if not done < first <= end <= last:
        raise UserError(f"--profile {text}: the remaining steps are {done + 1:,} to {last:,}; give a range of these")
    return first, end


class Trace:
    """Traces the steps from number ``first`` to number ``last``; called with the number of a step and the step.

    Args:
      first: first step to trace.
      last: last step to trace.
      folder: receives the trace.
      report: called with lines of text when the trace is written.
    """

    def __init__(self, first: int, last: int, folder: Path, report: Callable[[str], None]):
        self.first, self.last, self.folder, self.report = first, last, folder, report
        self._number = 0  # of the last step
        self._tracing = False

    def __enter__(self) -> Trace:
        """Returns itself."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends a trace if its last step wasn't reached."""
        self._stop()

    def __call__(self, number: int, step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Returns step ``number``, traced."""

        def traced(state: Any, batch: Any) -> Any:
            self._number = number
            if number == self.first:
                jax.block_until_ready(state)  # else the trace would begin in the middle of the previous step
                jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
                self._tracing = True
            with jax.profiler.StepTraceAnnotation("step", step_num=number):
                results = step(state, batch)
            if number == self.last:
                jax.block_until_ready(results)  # else the trace would end in the middle of this step
                self._stop()
            return results

        return traced

    def _stop(self) -> None:
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        trace = next(iter(sorted(self.folder.rglob("perfetto_trace.json.gz"), reverse=True)), self.folder)
        self.report(f"steps {self.first:,} to {self._number:,} traced: open {trace} at https://ui.perfetto.dev,")
        self.report(f"or pip install xprof and: xprof --logdir {self.folder}")
