"""A trace of some steps of a run, by JAX's own profiler: what the device did and when the host kept it waiting."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from minigpt_flax.errors import UserError

FORM = "--profile takes FIRST:LAST, two numbers of steps such as 10:15"


def read_steps(text: str, done: int, last: int) -> tuple[int, int]:
    """Reads ``FIRST:LAST``, counted from 1 as in the log, both included.

    >>> read_steps("10:15", done=0, last=100)
    (10, 15)

    Args:
      text: as it was typed.
      done: steps that are done already.
      last: the last step that will be done.

    Raises:
      UserError: it isn't of that form, or the sitting doesn't have all of these steps.
    """
    found = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", text)
    if found is None:
        raise UserError(f"{FORM}, got {text!r}")
    first, end = int(found[1]), int(found[2])
    if not done < first <= end <= last:
        raise UserError(
            f"--profile {text}: the steps to come are {done + 1:,} to {last:,}, give some of these in order"
        )
    return first, end


class Trace:
    """Makes of a step one that traces itself from step number ``first`` to number ``last``.

    Args:
      done: steps that were done before.
      first: step to begin with.
      last: step to end after.
      folder: takes the trace.
      say: takes a line when it is written.
    """

    def __init__(self, done: int, first: int, last: int, folder: Path, say: Callable[[str], None]):
        self.count, self.first, self.last = done, first, last
        self.folder, self.say = folder, say
        self._tracing = False

    def __enter__(self) -> Trace:
        """Begins."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends a trace that the run didn't come to the end of."""
        self._stop()

    def __call__(self, step: Callable) -> Callable:
        """The step, traced; all that are made so are counted together."""

        def traced(state: Any, batch: Any) -> Any:
            self.count += 1
            if self.count == self.first:
                jax.block_until_ready(state)  # or the trace would begin in the middle of the step before
                jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
                self._tracing = True
            with jax.profiler.StepTraceAnnotation("step", step_num=self.count):
                result = step(state, batch)
            if self.count == self.last:
                jax.block_until_ready(result)
                self._stop()
            return result

        return traced

    def _stop(self) -> None:
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        trace = next(iter(sorted(self.folder.rglob("perfetto_trace.json.gz"), reverse=True)), self.folder)
        self.say(f"steps {self.first:,} to {self.count:,} traced: open {trace} at https://ui.perfetto.dev,")
        self.say(f"or pip install xprof and: xprof --logdir {self.folder}")
