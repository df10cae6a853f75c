"""The next batches, made ahead by a thread while the device works on this one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

DEPTH = 2  # batches ahead: one more than is being used hides the making of a batch


class Prefetch:
    """``batches(step)``, as the function that it wraps, but usually ready when it is asked for.

    The steps may be asked for in any order; ahead are those that follow the last one. There is no state but the step:
    what is thrown away is made again when it is needed. What `make` raises is raised where its batch is asked for.

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
        """Takes the function.

        Args:
            make: step -> batch; pure, called in a thread.
            first: the step that will be asked for first.
            stop: the step before which it ends: no batch is made ahead from there on.
            put: batch -> the same on the devices; called in the thread too.
            depth: batches made ahead, at most.
        """
        self._make = lambda step: put(make(step))
        self._next, self._stop, self._depth = first, stop, depth
        self._making: int | None = None
        self._ready: deque[tuple[int, Any, BaseException | None]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetch:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends it: waits for the batch that it is at, at most."""
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        self._thread.join()

    def __call__(self, step: int) -> Any:
        """Returns the batch of a step."""
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
        """The step whose batch comes next; None if none will, as the end was reached."""
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
            except BaseException as raised:  # it belongs to whoever asks for the batch
                error = raised
            with self._change:
                if self._making == step:  # else somebody went elsewhere meanwhile
                    self._making = None
                    self._ready.append((step, batch, error))
                    self._change.notify_all()

    def _take(self) -> int | None:
        """Waits until a batch is wanted; None when none will be any more."""
        with self._change:
            self._change.wait_for(lambda: self._closed or (len(self._ready) < self._depth and self._next < self._stop))
            if self._closed:
                return None
            self._making = self._next
            self._next += 1
            return self._making
