"""A request to start or resume a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxopt_mini import GradientTransformation
from minigpt_flax.train import compile_cache
from minigpt_flax.train.callbacks import Callback, StepCallback
from minigpt_flax.train.dataset import Dataset
from minigpt_flax.train.reporter import Reporter
from minigpt_flax.train.stop import Stop


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here affects its numbers.

    Attributes:
      out: folder that holds the runs; None saves nothing to disk.
      name: folder of the run in ``out``; None chooses one.
      stop_after: save and end after this step of the run.
      profile: FIRST:LAST, the steps to trace.
      manage_cache: whether to use the compilation cache.
      compile_cache: its folder, or ``none``; None selects the user's cache.
      trust: execute code that a run's folder names.
      change: a resumed run may change settings that affect the numbers.
      notices: lines to report after all checks.
    """

    out: str | None = "runs"
    name: str | None = None
    stop_after: int | None = None
    profile: str | None = None
    manage_cache: bool = False
    compile_cache: str | None = None
    trust: bool = False
    change: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Session:
    """The common arguments of starting and resuming a run.

    Attributes:
      given: fields of ``RunConfig`` that the user set.
      preset: None selects the default for the device.
      options: how the run is carried out.
      reporter: shows progress and results.
      stop: whether a stop was requested.
      optimizer: replaces ``opt``, its schedule and clipping.
      data: replaces the field ``data``.
      callbacks: called one step late.
    """

    given: Mapping[str, Any]
    preset: str | None
    options: RunOptions
    reporter: Reporter
    stop: Stop
    optimizer: GradientTransformation | None = None
    data: Dataset | None = None
    callbacks: tuple[Callback | StepCallback, ...] = ()

    def stops_early(self) -> bool:
        """Whether the user asked to stop, and reports it; called between long operations."""
        if self.stop():
            self.reporter.note("stopped before the first step; nothing was written")
        return self.stop()

    def keep_compiled(self) -> None:
        """Enables the compilation cache, or reports why it is unavailable."""
        if self.options.manage_cache:
            problem = compile_cache.use(self.options.compile_cache, jax.devices()[0].device_kind)
            if problem is not None:
                self.reporter.label("cache", problem)
