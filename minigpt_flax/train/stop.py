"""What ends a run before its last step: somebody asks for it, or it can't go on. Imports no JAX.

A mistake in what was typed is a ``UserError`` instead and ends the command with status 2.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any


class Failed(Exception):
    """A run that was asked for correctly can't go on; the command line prints one line and exits with status 1."""


class Diverged(Failed):
    """The loss, a gradient or a parameter is no longer a number."""


class Stop:
    """Turns Ctrl-C and SIGTERM into a request that the loop sees between two steps.

    A second Ctrl-C leaves at once; what is on disk stays whole. A second SIGTERM changes nothing, as schedulers send
    several.

    Attributes:
      signal: the first signal that came, None before.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Takes the signals over; in a thread, which may not have them, does nothing."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: Any) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
            with contextlib.suppress(OSError):  # not print, which must not run inside another print
                os.write(2, b"\nstopping after this step (Ctrl-C: at once)\n")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
