"""What ends a run before its last step: somebody asks for it, or it can't go on. Imports no JAX.

A mistake in what was typed is a ``UserError`` instead and ends the command with status 2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

GRACE = 1.0  # seconds that the main thread gets to see a signal itself
POLL = 0.05
AGAIN = "(Ctrl-C: at once)"


class Stop:
    """Turns Ctrl-C and SIGTERM into a request that the loop sees between two steps.

    A second Ctrl-C leaves at once; what is on disk stays whole. A second SIGTERM changes nothing, as schedulers send
    several. Python's handlers wait while the main thread is inside the compiler, which may be minutes: a thread beside
    it tells that the signal has come, and ends the process at the second Ctrl-C.

    Attributes:
      signal: the first signal that came, None before.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Stop:
        """Takes the signals over; in a thread, which may not have them, does nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
            self._pipe = reader, writer = socket.socketpair()
            writer.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup)
            (_, writer), self._pipe = self._pipe, None
            writer.close()  # which ends the thread

    def __call__(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signal is not None

    @property
    def status(self) -> int:
        """Exit status: 128 + the signal, as shells count, or 0."""
        return 0 if self.signal is None else 128 + self.signal

    def _request(self, number: int, frame: Any) -> None:
        if self.signal is None:
            self.signal = number
            _tell(f"stopping after this step {AGAIN}")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _watch(self, reader: socket.socket) -> None:
        """Reads the signals as they come: C writes their numbers, whatever the main thread does."""
        seen = 0
        with reader:
            while numbers := reader.recv(64):
                for number in numbers:
                    seen += number in self.SIGNALS
                    if seen == 1 and not _soon(lambda: self.signal is not None):
                        _tell(f"stopping as soon as this is compiled {AGAIN}")
                    elif seen > 1 and number == signal.SIGINT and not _soon(lambda: self._pipe is None):
                        _tell("left at once; the last checkpoint is whole")
                        os._exit(128 + number)


def _soon(happened: Callable[[], bool]) -> bool:
    """Waits a little for something."""
    end = time.monotonic() + GRACE
    while not happened() and time.monotonic() < end:
        time.sleep(POLL)
    return happened()


def _tell(line: str) -> None:
    """Writes to standard error; not print, which must not run inside another print."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
