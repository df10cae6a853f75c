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

GRACE = 1.0  # seconds that the main thread gets to see a signal itself
STUCK = 8.0  # seconds after which a command that has not ended, as it is inside C code, is ended by the other thread
POLL = 0.05
AGAIN = "(Ctrl-C: at once)"
PARENT = "MINIGPT_FLAX_PARENT"  # set where standard input is a pipe that ends with the parent
ORPHAN = 3.0  # seconds that a process has to save after its parent has ended
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")  # SIGQUIT keeps its core dump


class Signals:
    """Ends a command at the first signal.

    A process that is writing a temporary file or folder, or isn't the command's own, gets an exception in the main
    thread, so that it removes what is half made. Otherwise the process ends at once: an exception may come inside a
    callback, where Python ignores it, or inside a library that doesn't survive it.

    A second signal leaves at once. Python's handlers wait while the main thread is inside C code, which may take
    minutes: a thread beside it sees the signals, and ends a process that doesn't react.

    A signal that was ignored when the process started (``nohup`` and SIGHUP) stays ignored. SIGINT is the exception:
    shells ignore it for every job in the background, and one that arrives there was sent on purpose.

    Args:
      own: whether the process runs nothing but this command.

    Attributes:
      signal: the first signal that came, None before.
    """

    SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

    def __init__(self, own: bool = False):
        self.signal: int | None = None
        self._own = own
        self._repeats = 0  # signals to come that this class itself sent
        self._count = 0  # of the signals that the other thread has seen
        self._before: dict[signal.Signals, Any] = {}
        self._pipe: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Any:
        """Takes the signals over; in a thread, which may not have them, does nothing."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._request)
            self._pipe = reader, writer = socket.socketpair()
            writer.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
            self._show_ignored, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(self, *error: Any) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            if sys.unraisablehook == self._lost:
                sys.unraisablehook = self._show_ignored
            signal.set_wakeup_fd(self._wakeup)
            (_, writer), self._pipe = self._pipe, None
            writer.close()  # which ends the thread

    def _request(self, number: int, frame: Any) -> None:
        if self.signal is not None or self._may_quit():
            _quit(number)
        self.signal = number
        raise Interrupted(number)

    def _may_quit(self) -> bool:
        return self._own and not files.is_writing()

    def _watch(self, reader: socket.socket) -> None:
        """Reads the signals as they come: C writes their numbers, whatever the main thread does."""
        with reader:
            while numbers := reader.recv(64):
                for number in numbers:
                    if self._repeats:  # the same signal once more is no second one
                        self._repeats -= 1
                    elif number in self._before:
                        self._count += 1
                        self._seen(number)

    def _seen(self, number: int) -> None:
        if self._count == 1:
            _later(GRACE, self._end_if_stuck, number)
            _later(STUCK, self._end_in_any_case, number)
        elif not _soon(lambda: self._pipe is None):
            _quit(number)

    def _end_if_stuck(self, number: int) -> None:
        if self.signal is None and self._pipe is not None and self._may_quit():
            _quit(number)

    def _end_in_any_case(self, number: int) -> None:
        if self._pipe is not None:
            _quit(number)

    def _lost(self, ignored: Any) -> None:
        """Raises again what came where Python ignores exceptions: in a destructor or a callback."""
        if not isinstance(ignored.exc_value, Interrupted):
            self._show_ignored(ignored)
        elif self._pipe is not None:
            self.signal = None
            self._repeats += 1
            _later(POLL, _again, ignored.exc_value.number)


class Stop(Signals):
    """Turns signals into a request that the loop sees between two steps.

    A second Ctrl-C leaves at once; what is on disk stays intact. Another second signal changes nothing, as schedulers
    send several. A reader of standard output that leaves is such a request too; where standard output can't be written
    for another reason, the run goes on without it.
    """

    def __init__(self):
        super().__init__()
        self._output = ExitStack()

    def __enter__(self) -> Stop:
        """Takes over the signals and the end of standard output."""
        super().__enter__()
        self._output.enter_context(streams.losing(self._without_output))
        return self

    def __exit__(self, *error: Any) -> None:
        """Gives them back."""
        self._output.close()
        super().__exit__(*error)

    def __call__(self) -> bool:
        """Whether the run was asked to stop."""
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

    def _seen(self, number: int) -> None:
        if self._count == 1 and not _soon(lambda: self.signal is not None):
            _tell(f"stopping as soon as this is compiled {AGAIN}")
        elif self._count > 1 and number == signal.SIGINT and not _soon(lambda: self._pipe is None):
            _tell("quit without saving; the last checkpoint is intact")
            _quit(number)

    def _without_output(self, error: OSError) -> None:
        if not streams.reader_left(error):
            _tell(f"standard output can't be written ({error.strerror}): training continues without it")
        elif self.signal is None:
            self.signal = streams.BROKEN_PIPE
            _tell("the reader of standard output has left: stopping after this step")


def end_with_parent() -> None:
    """Lets a process that was started by ``compare --jobs`` end with its parent, however that ends."""
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
    """Ends the process without anything else, but for a cursor that a progress bar has hidden."""
    for stream in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(stream):
                os.write(stream, b"\x1b[?25h")
    os._exit(128 + number)


def _later(seconds: float, function: Callable[[int], Any], number: int) -> None:
    timer = threading.Timer(seconds, function, (number,))
    timer.daemon = True
    timer.start()


def _again(number: int) -> None:
    """Sends a signal to the main thread, which interrupts what that waits for."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:  # Windows
        _thread.interrupt_main(signal.Signals(number))


def _soon(happened: Callable[[], bool], seconds: float = GRACE) -> bool:
    """Waits a little for something."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(POLL)
    return happened()


def _tell(line: str) -> None:
    """Writes to standard error; not print, which must not run inside another print."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())
