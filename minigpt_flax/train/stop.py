"""Signals: end a command cleanly, or ask a run to save and stop. Imports no JAX."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

from minigpt_flax import streams
from minigpt_flax.errors import Interrupted
from minigpt_flax.runs import files

GRACE = 1.0  # seconds in which the main thread should handle a signal itself
STUCK = 8.0  # seconds after which the watching thread ends a command whose main thread is still inside C code
POLL = 0.05  # seconds between two checks of a condition
AGAIN = "(Ctrl-C: quit now)"
PARENT = "MINIGPT_FLAX_PARENT"  # set if standard input is a pipe that closes when the parent ends
ORPHAN = 3.0  # seconds in which a process can save after its parent has ended
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")  # SIGQUIT keeps its core dump


class Signals:
    """Ends a command at the first signal.

    While the process writes a temporary file or folder, or if it runs more than the command, the signal raises an
    exception in the main thread, so that incomplete files are removed. Otherwise the process ends at once: an exception
    could be raised inside a callback, where Python ignores it, or inside a library that doesn't survive it.

    A second signal always ends the process at once. Python's handlers wait while the main thread is inside C code,
    possibly for minutes: a separate thread watches the signals and ends a process that doesn't react.

    A signal that was ignored when the process started (SIGHUP under ``nohup``) stays ignored, except SIGINT: shells
    ignore it for every background job, and one that arrives there was sent on purpose.

    Args:
      own: whether the process runs only this command.

    Attributes:
      signal: the first signal received; None before.
    """

    SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

    def __init__(self, own: bool = False):
        self.signal: int | None = None
        self._own = own
        self._resent = 0  # signals sent again by this class that have not arrived yet
        self._count = 0  # signals seen by the watching thread
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Any:
        """Installs the handlers; does nothing outside of the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
            self._pipe = reader, writer = socket.socketpair()
            writer.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
            self._show_ignored, sys.unraisablehook = sys.unraisablehook, self._raise_ignored
        return self

    def __exit__(self, *error: Any) -> None:
        """Restores the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            if sys.unraisablehook == self._raise_ignored:
                sys.unraisablehook = self._show_ignored
            signal.set_wakeup_fd(self._wakeup)
            (_, writer), self._pipe = self._pipe, None
            writer.close()  # which ends the thread

    def _handle(self, number: int, frame: Any) -> None:
        if self.signal is not None or self._may_quit():
            _quit(number)
        self.signal = number
        raise Interrupted(number)

    def _may_quit(self) -> bool:
        return self._own and not files.is_writing()

    def _watch(self, reader: socket.socket) -> None:
        """Reads the numbers of signals, which C code writes to the pipe even while the main thread is busy."""
        with reader:
            while numbers := reader.recv(64):
                for number in numbers:
                    if self._resent:  # the first signal again, not a second one
                        self._resent -= 1
                    elif number in self._before:
                        self._count += 1
                        self._on_signal(number)

    def _on_signal(self, number: int) -> None:
        """Called in the watching thread."""
        if self._count == 1:
            _call_after(GRACE, self._quit_if_unhandled, number)
            _call_after(STUCK, self._quit_if_running, number)
        elif not _wait_for(lambda: self._pipe is None):
            _quit(number)

    def _quit_if_unhandled(self, number: int) -> None:
        if self.signal is None and self._pipe is not None and self._may_quit():
            _quit(number)

    def _quit_if_running(self, number: int) -> None:
        if self._pipe is not None:
            _quit(number)

    def _raise_ignored(self, ignored: Any) -> None:
        """Sends a signal again whose exception was raised in a destructor or a callback, where Python ignores it."""
        if not isinstance(ignored.exc_value, Interrupted):
            self._show_ignored(ignored)
        elif self._pipe is not None:
            self.signal = None
            self._resent += 1
            _call_after(POLL, _resend, ignored.exc_value.number)


class Stop(Signals):
    """Turns a signal into a request to stop, which the training loop checks between steps.

    A second Ctrl-C quits at once; the files on disk stay intact. Other repeated signals have no effect, as schedulers
    send several. A closed pipe on standard output is a request to stop too; if standard output can't be written for
    another reason, the run continues without it.
    """

    def __init__(self):
        super().__init__()
        self._output = ExitStack()

    def __enter__(self) -> Stop:
        """Installs the handlers of signals and of errors of standard output."""
        super().__enter__()
        self._output.enter_context(streams.losing(self._without_output))
        return self

    def __exit__(self, *error: Any) -> None:
        """Restores the previous handlers."""
        self._output.close()
        super().__exit__(*error)

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    @property
    def status(self) -> int:
        """Exit status: 128 + the signal, as shells count, or 0."""
        return 0 if self.signal is None else 128 + self.signal

    def _handle(self, number: int, frame: Any) -> None:
        if self.signal is None:
            self.signal = number
            _print(f"stopping after this step {AGAIN}")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _on_signal(self, number: int) -> None:
        if self._count == 1 and not _wait_for(lambda: self.signal is not None):
            _print(f"stopping after this compilation {AGAIN}")
        elif self._count > 1 and number == signal.SIGINT and not _wait_for(lambda: self._pipe is None):
            _print("quit without saving; earlier checkpoints are intact")
            _quit(number)

    def _without_output(self, error: OSError) -> None:
        if not streams.reader_left(error):
            _print(f"standard output can't be written ({error.strerror}): training continues without it")
        elif self.signal is None:
            self.signal = streams.BROKEN_PIPE
            _print("the reader of standard output has closed the pipe: stopping after this step")


def end_with_parent() -> None:
    """Makes a process of ``compare --jobs`` end when its parent ends for any reason."""
    if os.environ.pop(PARENT, None) is not None:
        threading.Thread(target=_await_parent, name="parent", daemon=True).start()


def _await_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN)
    os._exit(128 + signal.SIGTERM)


def _quit(number: int) -> NoReturn:
    """Ends the process without cleanup, except to show the cursor that a progress bar has hidden."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(stream):
                os.write(stream, b"\x1b[?25h")
    os._exit(128 + number)


def _call_after(seconds: float, function: Callable[[int], Any], number: int) -> None:
    timer = threading.Timer(seconds, function, (number,))
    timer.daemon = True
    timer.start()


def _resend(number: int) -> None:
    """Sends a signal to the main thread, which interrupts a blocking call there."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        _thread.interrupt_main(signal.Signals(number))


def _wait_for(condition: Callable[[], bool], seconds: float = GRACE) -> bool:
    """Waits until a condition holds, at most so many seconds; returns whether it holds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(POLL)
    return condition()


def _print(line: str) -> None:
    """Writes to standard error without ``print``, which is not reentrant."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
