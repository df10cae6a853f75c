"""``metrics.jsonl``: one JSON record per logged step, written during training. Imports no JAX."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minigpt_flax.errors import CheckpointError, TrainingFailed
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.runs.loggers import Logger


class MetricsLog:
    """Appends records to ``metrics.jsonl``, and passes each to other loggers. Non-finite numbers become ``null``.

    Records that can't be written to a full disk stay in memory until they can.

    Args:
      folder: of the run; None writes no file.
      tokens_after: number of steps -> number of tokens trained on.
      seconds: training time before a resume.
      warn: called with a line about records that can't be written.
      loggers: receive every record too, and are closed with the file.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        tokens_after: Callable[[int], int | float],
        seconds: float = 0.0,
        warn: Callable[[str], None] = print,
        loggers: Sequence[Logger] = (),
    ):
        self.folder, self.tokens_after, self.warn, self.loggers = folder, tokens_after, warn, loggers
        self.start, self.waiting, self.reason = time.monotonic() - seconds, b"", ""
        self.file: Any = None

    def __enter__(self) -> MetricsLog:
        """Opens the file."""
        if self.folder is not None:
            try:
                self.file = files.open_append(self.folder.metrics)
            except OSError as error:
                raise TrainingFailed(f"can't write {show(self.folder.metrics)}: {error.strerror}") from error
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        """Closes the file.

        Raises:
          TrainingFailed: records could not be written.
        """
        self._flush()
        if self.file is not None:
            self.file.close()
        for logger in self.loggers:
            logger.close()
        if self.waiting and kind is None:
            raise TrainingFailed(f"can't write the last records of {self._shown()}: {self.reason}")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one record immediately, so that a crash loses no earlier one.

        Raises:
          TrainingFailed: the run's folder was moved or removed.
        """
        self._reopen_if_removed()
        seconds = round(time.monotonic() - self.start, 3)
        record = {"step": step, "tokens": self.tokens_after(step), "seconds": seconds}
        record |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        if self.file is not None:
            self.waiting += json.dumps(record).encode() + b"\n"
        self._flush()
        for logger in self.loggers:
            logger(record)

    def _reopen_if_removed(self) -> None:
        if self.folder is None or self.file is None:
            return
        self.folder.require_present()
        if os.fstat(self.file.fileno()).st_nlink == 0:
            self.warn(f"{self._shown()} was removed during the run: later records go to a new file")
            self.file.close()
            self.file = files.open_append(self.folder.metrics)

    def _flush(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]  # a disk that fills up accepts a part
        except OSError as error:
            if not self.reason:
                self.warn(f"can't write {self._shown()}: {error.strerror}; its records are kept in memory")
            self.reason = error.strerror

    def sync(self) -> None:
        """Flushes the records to the disk; called before a checkpoint is saved, so that its records can't be lost.

        Raises:
          CheckpointError: records could not be written.
          TrainingFailed: the run's folder was moved or removed.
        """
        self._flush()
        if self.folder is not None and self.file is not None:
            self.folder.require_present()
            if self.waiting:
                raise CheckpointError(f"can't write {self._shown()}: {self.reason}")
            os.fsync(self.file.fileno())

    def _shown(self) -> str:
        return show(self.folder.metrics) if self.folder is not None else "the metrics"
