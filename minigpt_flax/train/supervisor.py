"""Follow one run while it trains: log, check, validate, save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minigpt_flax.errors import CheckpointError, Diverged
from minigpt_flax.runs.loggers import open_all
from minigpt_flax.runs.metrics_log import MetricsLog
from minigpt_flax.train.build import Run
from minigpt_flax.train.callbacks import Callback, NonFiniteGuard, Recorder, SkippedSteps
from minigpt_flax.train.config.run_config import as_text
from minigpt_flax.train.metrics import tensor_names
from minigpt_flax.train.parallel.multihost import broadcast_from_first, is_first
from minigpt_flax.train.reporter import StepTimer
from minigpt_flax.train.state import TrainState
from minigpt_flax.train.store import Store


class History:
    """A logger that keeps the records of a run in memory."""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records

    def __call__(self, record: Any) -> None:
        """Appends a record."""
        self.records.append(dict(record))

    def close(self) -> None:
        """Nothing is left to write."""


class Supervisor:
    """Follows one run while it trains: logs, checks, validates and saves.

    Args:
      run: the run.
      state: at the start of training.
      store: folder and checkpoints of the run.
      callbacks: called after the log and the checks.
      progress: shows the progress, and warns.
      history: receives every record.
      tolerant: store a divergence in ``diverged`` instead of raising it, because other runs train in the same program.

    Attributes:
      diverged: the error of a diverged run, else None.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        store: Store,
        callbacks: Sequence[Callback],
        progress: StepTimer,
        history: History,
        *,
        tolerant: bool = False,
    ):
        self.run, self.store, self.progress, self.tolerant = run, store, progress, tolerant
        self.first, self.diverged = int(state.step), None
        config, warn = run.config, progress.warn
        history.records[:] = [record for record in history.records if record["step"] <= self.first]
        folder = store.folder if is_first() else None
        seconds = history.records[-1]["seconds"] if history.records else 0.0
        opened = [] if folder is None else open_all(config.log, folder.path, as_text(config), self.first)
        self.log = MetricsLog(folder, config.phases.tokens_after, seconds, warn, [history, *progress.loggers, *opened])
        warned = any("explosion" in record for record in history.records)
        names = tensor_names(run.layout, run.shapes)
        guard = NonFiniteGuard(names, config.explosion, self._explodes, warned=warned, skips=run.on_nan.skips)
        skipped = SkippedSteps(state.opt_state, warn)
        self.callbacks = [Recorder(self.log, config.log_every, skips=run.on_nan.skips), guard, skipped, *callbacks]

    def __enter__(self) -> Supervisor:
        """Opens the log."""
        self.log.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Closes the log."""
        self.log.__exit__(*error)

    def _explodes(self, step: int, norm: float, name: str) -> None:
        self.log.write(step, {"explosion": norm})
        limit = self.run.config.explosion
        self.progress.warn(f"gradient norm {norm:.3g} exceeds {limit:g} at step {step}; largest in {name}")

    def on_step(self, step: int, metrics: Any) -> None:
        """Processes the metrics of a step."""
        with self._diverging():
            for callback in self.callbacks:
                callback.on_step(step, metrics)

    def must_validate(self, step: int) -> bool:
        """Whether a validation is due: after every ``eval_every`` steps and after the last."""
        config = self.run.config
        return 0 < step and (step % config.eval_every == 0 or step == config.steps) and step not in self._scores

    def must_save(self, step: int) -> bool:
        """Whether a checkpoint without a validation is due."""
        every = self.run.config.keep_every
        return every is not None and self.first < step and step % every == 0

    @property
    def _scores(self) -> dict[int, float]:
        return self.store.checkpoints.scores

    def validate(self, step: int, state: TrainState, stop: Callable[[], bool]) -> None:
        """Validates and saves.

        Raises:
          Abandoned: ``stop`` interrupted it; it will be repeated from the checkpoint of this step.
        """
        with self._diverging():
            results = self.run.evaluate(state.evaluation_params, self.progress.validating(stop))
            for callback in self.callbacks:
                callback.on_validation(step, results)
            if not math.isfinite(results["val_loss"]):
                raise Diverged(f"validation loss {results['val_loss']} at step {step}")
            self.save(state, results["val_loss"])

    def save(self, state: TrainState, val_loss: float | None = None) -> None:
        """Saves in the background; a failure is reported, and training continues if an earlier checkpoint exists."""
        with self._diverging():
            with self._enduring():
                self.store.checkpoints.wait()
            with self._enduring():
                broadcast_from_first(self.log.sync)
                self.store.checkpoints.save(state, val_loss)

    def finish(self, state: TrainState) -> None:
        """Saves the last state; this must succeed."""
        with self._diverging():
            with self._enduring():
                self.store.checkpoints.wait()
            broadcast_from_first(self.log.sync)
            self.store.checkpoints.save(state)
            self.store.checkpoints.wait()

    @contextmanager
    def _diverging(self) -> Iterator[None]:
        try:
            yield
        except Diverged as error:
            if not self.tolerant:
                raise
            self.diverged = error

    @contextmanager
    def _enduring(self) -> Iterator[None]:
        """Lets training continue after a failed save if an earlier checkpoint exists."""
        try:
            yield
        except CheckpointError as error:
            saved = self.store.checkpoints.steps()
            if not saved:
                raise
            self.progress.warn(f"{error}; training continues, the checkpoint of step {saved[-1]} is intact")
