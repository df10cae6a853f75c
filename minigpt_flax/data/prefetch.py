"""Prefetching: a thread prepares the next batches while the device works on the current one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

DEPTH = 2  # batches ahead: one more than is in use hides the preparation time


class Prefetch:
    """Call ``batches(step)`` like the wrapped function; the batch is usually ready.

    Steps may be requested in any order; the thread prepares those after the last request. The step is the only state: a
    discarded batch is prepared again when requested. An exception of `make` is raised where its batch is requested.

    >>> with Prefetch(lambda step: step * step, first=3, stop=6) as batches:
    ...     [batches(3), batches(4), batches(3)]
    [9, 16, 9]
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        *,
        first: int,
        stop: int,
        put: Callable[[Any], Any] = lambda batch: batch,
        depth: int = DEPTH,
    ):
        """Wrap a function.

        Args:
          make: step -> batch; pure, called in a thread.
          first: the step that is requested first.
          stop: end of the steps: no batch is prepared in advance from this step on.
          put: moves a batch to the devices; called in the thread too.
          depth: maximum number of batches prepared in advance.
        """
        self._make = lambda step: put(make(step))
        self._next, self._stop, self._depth = first, stop, depth
        self._making: int | None = None
        self._ready: deque[tuple[int, Any, BaseException | None]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetch:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop the thread, after the batch that it is preparing."""
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        self._thread.join()

    def __call__(self, step: int) -> Any:
        """Return the batch of a step."""
        with self._change:
            if self._coming() != step:
                self._ready.clear()
                self._making, self._next, self._stop = None, step, max(self._stop, step + 1)
                self._change.notify_all()
            self._change.wait_for(lambda: self._ready)
            _, batch, error = self._ready.popleft()
            self._change.notify_all()
        if error is not None:
            raise error
        return batch

    def _coming(self) -> int | None:
        """Return the step of the next batch; None if the end was reached."""
        if self._ready:
            return self._ready[0][0]
        if self._making is not None:
            return self._making
        return self._next if self._next < self._stop else None

    def _work(self) -> None:
        while (step := self._take()) is not None:
            batch, error = None, None
            try:
                batch = self._make(step)
            except BaseException as raised:  # raised again where the batch is requested
                error = raised
            with self._change:
                if self._making == step:  # otherwise another step was requested meanwhile
                    self._making = None
                    self._ready.append((step, batch, error))
                    self._change.notify_all()

    def _take(self) -> int | None:
        """Wait until a batch is needed; return its step, or None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._closed or (len(self._ready) < self._depth and self._next < self._stop))
            if self._closed:
                return None
            self._making = self._next
            self._next += 1
            return self._making
