"""The training loop: run each step, process the metrics of the previous one, validate and save."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from minigpt_flax.data import Prefetch
from minigpt_flax.errors import Diverged, Failed
from minigpt_flax.phases import batch_number
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Callback, StepCallback, as_callback
from minigpt_flax.train.clock import Clock
from minigpt_flax.train.evaluate import Abandoned
from minigpt_flax.train.parallel.multihost import broadcast_from_first
from minigpt_flax.train.parallel.sharding import local
from minigpt_flax.train.reporter import Reporter, StepTimer
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.store import Store, latest, open_store
from minigpt_flax.train.supervisor import History, Supervisor

StepFunction = Callable[[Any, Any], tuple[Any, Any]]
"""``(state, batch) -> (state, metrics)``."""
Profiler = Callable[[int, StepFunction], StepFunction]
"""``(number of a step, the step) -> the step``, profiled where that is asked for."""


@dataclass(frozen=True)
class Result:
    """A run after training.

    Attributes:
      run: its parts.
      state: at the end.
      folder: of the run; None if nothing was saved.
      history: records of ``metrics.jsonl``: steps and validations, in order.
      clock: time of the steps.
    """

    run: Run
    state: TrainState
    folder: Path | None
    history: list[dict[str, Any]]
    clock: Clock

    @property
    def params(self) -> Any:
        """The parameters to evaluate and to sample with, on this host: an average, if the optimizer keeps one."""
        return local(self.state.evaluation_params, self.run.mesh)

    @property
    def val_loss(self) -> float | None:
        """The last validation loss, in nats per token; None without a validation."""
        losses = [record["val_loss"] for record in self.history if record.get("val_loss") is not None]
        return losses[-1] if losses else None

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return int(self.state.step) >= self.run.config.steps


def fit(
    run: Run,
    state: TrainState | None = None,
    *,
    folder: Path | str | None = None,
    callbacks: Iterable[Callback | StepCallback] = (),
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
    stop_after: int | None = None,
) -> Result:
    """Trains a run to its end, from the newest checkpoint in its folder if there is one.

    Args:
      run: see :func:`minigpt_flax.build`.
      state: initial state; None uses the newest checkpoint, or else ``run.init()``.
      folder: of the run, created if it doesn't exist; None saves nothing to disk.
      callbacks: :class:`Callback` objects, or functions ``(step, metrics)``; called one step late.
      reporter: shows the progress; None shows nothing.
      stop: called before every step; True saves and ends.
      stop_after: save and stop after this step.

    Raises:
      Diverged: the loss, a gradient or a parameter isn't finite; the checkpoints hold only states from before.
      UserError: the folder holds another run, or another process is using it.
      TrainingFailed: a file can't be written.
    """
    reporter = reporter or Reporter()
    with open_store(run, folder) as store:
        begin = latest(run, store, reporter.warn) if state is None else state
        return fit_in(store, run, begin, callbacks=callbacks, reporter=reporter, stop=stop, stop_after=stop_after)


def fit_in(
    store: Store,
    run: Run,
    state: TrainState,
    *,
    callbacks: Iterable[Callback | StepCallback] = (),
    reporter: Reporter,
    stop: Callable[[], bool],
    stop_after: int | None = None,
    profiler: Profiler = lambda number, step: step,
) -> Result:
    """Trains a run in an open store; with ``--on-nan rollback``, returns to a checkpoint where a step diverged."""
    history = History([] if store.folder is None else store.folder.records())
    last = run.config.steps if stop_after is None else min(run.config.steps, stop_after)
    with reporter.progress(run.config, int(state.step)) as progress:
        while True:
            skipped = [] if store.folder is None else store.folder.passed_over()
            rest = functools.partial(run.batches, skipped=tuple(skipped)) if skipped else run.batches
            part = dataclasses.replace(run, batches=rest)
            watched = Supervisor(part, state, store, [*map(as_callback, callbacks), progress], progress, history)
            try:
                with watched:
                    step_for = functools.partial(_step_for, part, progress)
                    state = advance(step_for, part.batches, state, [watched], stop, last, profiler=profiler)
                    break
            except Diverged as error:
                state = _after_divergence(error, store, part, skipped, progress)
    folder = None if store.folder is None else store.folder.path
    return Result(run, state, folder, history.records, progress.clock)


def _step_for(run: Run, progress: StepTimer, number: int) -> StepFunction:
    """The step of a number, from 1; the first one with batches of another shape is announced, and compiled."""
    phase = run.config.phases.at(number - 1)
    if 0 < phase.first == number - 1:
        progress.note(f"from step {number:,}: {phase} per step; compiling the step ...")
        progress.clock.interrupt()
        run.compile_in_background(number - 1)
    return run.step_for(number)


def _after_divergence(error: Diverged, store: Store, run: Run, skipped: list[int], progress: StepTimer) -> TrainState:
    """The state to continue from without the batch of the step that diverged.

    Raises:
      Diverged: the policy has no rollback left; the message names the last checkpoint.
    """
    folder, checkpoints = store
    with contextlib.suppress(Failed):
        checkpoints.wait()
    saved = checkpoints.steps()
    left = f"the checkpoint of step {saved[-1]} is from before that" if saved else "no checkpoint was saved"
    if error.step is None or folder is None or len(skipped) >= run.on_nan.rollbacks:
        raise Diverged(f"{error}; {left}; start again with a lower --lr or --clip") from error
    batch = batch_number(error.step - 1, skipped)
    progress.warn(f"{error}; {left}: returning to it, and skipping batch {batch}")
    broadcast_from_first(lambda: folder.pass_over([*skipped, batch]))
    return latest(run, store, progress.warn)


def advance(
    step_for: Callable[[int], StepFunction],
    batches: Callable[[int], Any],
    state: Any,
    supervisors: Sequence[Supervisor],
    stop: Callable[[], bool],
    last: int,
    *,
    split: Callable[[Any], Sequence[Any]] = lambda tree: [tree],
    profiler: Profiler = lambda number, step: step,
) -> Any:
    """Runs the remaining steps; all training uses this loop.

    Args:
      step_for: number of a step, from 1 -> ``step(state, batch) -> (state, metrics)``.
      batches: number of steps done -> batch.
      state: of one run, or of several as one tree.
      supervisors: of the runs.
      stop: called before every step; True ends.
      last: number of the step to end after.
      split: a tree -> the trees of the single runs.
      profiler: wraps each step.

    Returns:
      The state at the end, saved.

    Raises:
      Diverged: from a supervisor that isn't tolerant.
      Failed: a file can't be written.
    """
    done = first = supervisors[0].first
    pending: tuple[int, Any] | None = None

    def drain() -> None:
        nonlocal pending
        if pending is not None:
            (step, measured), pending = pending, None
            for supervisor, metrics in active(split(jax.device_get(measured))):
                supervisor.on_step(step, metrics)

    def active(parts: Sequence[Any]) -> list[tuple[Supervisor, Any]]:
        return [pair for pair in zip(supervisors, parts, strict=True) if pair[0].diverged is None]

    with Prefetch(batches, first=first, stop=last, put=_placed) as prefetched:
        while not stop() and active(supervisors):
            if any(supervisor.must_validate(done) for supervisor in supervisors):
                drain()
                try:
                    for supervisor, own in active(split(state)):
                        if supervisor.must_validate(done):
                            supervisor.validate(done, own, stop)
                except Abandoned:
                    break
            elif any(supervisor.must_save(done) for supervisor in supervisors):
                drain()
                for supervisor, own in active(split(state)):
                    supervisor.save(own)
            if done >= last:
                break
            step = profiler(done + 1, step_for(done + 1))
            state, metrics = step(state, prefetched(done))
            drain()
            done += 1
            pending = (done, metrics)
        drain()
        for supervisor, own in active(split(state)):
            supervisor.finish(own)
    return state


def _placed(batch: Any) -> Any:
    """Places a batch on its device; a batch that is already sharded over several is unchanged."""
    return batch if isinstance(batch, jax.Array) else jax.device_put(batch)
