"""Connections between the processes of one run: find each other, exchange values, notice when one is gone.

Process 0 listens on the coordinator's port, and every other process connects to it. A message is a line of JSON, a
heartbeat an empty line. A thread in every process reads them: when a process is gone, silent or has failed, it ends
its own process with one line and ``os._exit``, whatever the main thread waits for, and before JAX's coordination
service aborts with pages of C++ output. Imports no JAX.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from minigpt_flax.errors import UserError
from minigpt_flax.explain import explain
from minigpt_flax.invocation import line, program
from minigpt_flax.train.stop import Stop

GREETING = "minigpt"
TICK = 0.1  # seconds between two looks at the clock
BEAT = 1.0  # seconds between two heartbeats
UNKNOWN = -1  # number of a process that has not introduced itself
LONGEST = 1 << 20  # bytes of a message, at most
AFTER_SIGNAL = 20  # seconds of silence that end a run which was asked to stop: schedulers kill soon
LINGER = 10  # seconds in which a process that failed at once waits for the others, to tell them
SETTLE = 2.0  # seconds in which an error may turn out to follow from the death or the error of another process
OTHER_PORT = "give all processes another port in coordinator=HOST:PORT"
CLOSE = 5.0  # seconds in which process 0 lets the others leave first


@dataclass(frozen=True)
class Place:
    """Where the processes of a run meet, and which one this is.

    Attributes:
      host: of process 0.
      port: that process 0 listens on.
      process: number of this process.
      processes: how many there are.
      timeout: seconds to wait until all are connected.
      silence: seconds without a heartbeat after which a process counts as hung.
    """

    host: str
    port: int
    process: int
    processes: int
    timeout: int = 300
    silence: int = 60

    def __str__(self) -> str:
        """``HOST:PORT``."""
        return f"{self.host}:{self.port}"


class Ending(NamedTuple):
    """How this process will end: its last line, its exit status, and when."""

    text: str
    status: int
    at: float


class Connection:
    """One socket, the bytes of an incomplete line, and when the other side was last heard."""

    def __init__(self, own: socket.socket, process: int = UNKNOWN):
        own.settimeout(5)  # to a process that reads nothing
        self.socket, self.process = own, process
        self.heard = time.monotonic()
        self.done = False  # said goodbye, or that it failed
        self.values: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, kind: str, **facts: Any) -> None:
        """Sends a message; that the other side is gone shows where it is read."""
        self._send(json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def beat(self) -> None:
        """Sends a heartbeat."""
        self._send(b"\n")

    def _send(self, text: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(text)

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None when the connection is closed or isn't one of ours."""
        try:
            read = self.socket.recv(1 << 16)
            *lines, self._rest = (self._rest + read).split(b"\n")
            found = [json.loads(text) for text in lines if text]
        except TimeoutError:
            return []
        except (OSError, ValueError):
            return None
        self.heard = time.monotonic()
        valid = read and len(self._rest) < LONGEST and all(isinstance(message, dict) for message in found)
        return found if valid else None


class Peers:
    """The other processes of this run. Used as a context: the end of the block tells them how this process ended.

    Args:
      place: where they meet.
      stop: of this process; a signal to one process is told to all.

    Attributes:
      run: folder of the run as it would be typed, once it is known.
    """

    def __init__(self, place: Place, stop: Stop | None = None):
        self.place, self.stop = place, stop or Stop()
        self.run: str | None = None
        self._connections: list[Connection] = []  # process 0: one to each; others: one to process 0
        self._came: set[int] = set()  # processes that have connected to process 0
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._ending: Ending | None = None
        self._leaving = False  # the main thread ends this process, or this thread has printed the last line
        self._lock = threading.Lock()
        self._all_here, self._all_done = threading.Event(), threading.Event()
        self._signal: int | None = None
        self._progress = self._looked = self._began = time.monotonic()
        self._agreed_to_stop = False

    # What the main thread calls.

    def connect(self, seconds: float) -> None:
        """Connects to process 0, or listens and waits until all have come.

        Raises:
          UserError: the port is taken, or not all come in time.
          KeyboardInterrupt: a signal came first.
        """
        self.introduce(seconds)
        if not self.place.process:
            self._wait_for_all(seconds)

    def introduce(self, seconds: float) -> None:
        """Connects to process 0, or begins to listen; doesn't wait for the others.

        Raises:
          UserError: the port is taken, or process 0 doesn't answer.
          KeyboardInterrupt: a signal came first.
        """
        if self.place.process:
            self._call(seconds)
        else:
            self._listen()
        self._start()

    def decide(self, value: Any, decide: Callable[[dict[int, Any]], Any]) -> Any:
        """Process 0 decides on the values of all; returns the decision in every process.

        Args:
          value: of this process; JSON.
          decide: ``{process: value} -> decision``, which is JSON too; called in process 0.
        """
        if self.place.process:
            self._connections[0].send("value", value=value)
            return self._connections[0].values.get()
        values = {0: value} | {other.process: other.values.get() for other in self._connections}
        return self.tell(decide(dict(sorted(values.items()))))

    def tell(self, value: Any = None) -> Any:
        """What process 0 says, in every process."""
        if self.place.process:
            return self._connections[0].values.get()
        self._broadcast("value", value=value)
        return value

    def note_progress(self, stopping: bool) -> None:
        """Notes that the main thread has come to the end of a step, and whether all have agreed to stop there."""
        self._progress, self._agreed_to_stop = time.monotonic(), stopping

    def goodbye(self) -> None:
        """Waits until every process is done. Process 0 leaves last: JAX's coordination service is part of it."""
        if self.place.process:
            self._connections[0].send("bye")
        self._all_done.wait()
        with self._lock:
            self._wait_if_ending()
            self._leaving = True
        if not self.place.process:
            self._broadcast("bye")
            self._wait_for_closed(CLOSE)

    def fail(self, text: str, status: int) -> None:
        """Tells the others that this process ends with an error, unless this is the end of another's."""
        with self._lock:
            self._wait_if_ending()
            self._leaving = True
        self._set_ending(f"process {self.place.process}: {text}", status, float("inf"))
        self._broadcast("fail", process=self.place.process, text=text, status=status)
        self._wait_for_closed(CLOSE)

    def __enter__(self) -> Peers:
        """Begins."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Says goodbye, or what went wrong."""
        if error is None:
            return self.goodbye()
        if isinstance(error, KeyboardInterrupt):
            number = self.stop.signal or signal.SIGINT
            return self.fail(f"ended at {_name(number)}", 128 + number)
        if not isinstance(error, UserError):
            self._settle()
        if ending := explain(error):
            status, text = ending
            return self.fail(text, status)
        traceback.print_exception(error)
        self.fail(f"{type(error).__name__} (its traceback is on its standard error)", 1)
        os._exit(1)  # the end of the interpreter would wait for the others

    def _settle(self) -> None:
        """Waits for news of the process whose end may have caused an error here."""
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            time.sleep(TICK)
            self._wait_if_ending()

    def _wait_if_ending(self) -> None:
        """Leaves the end to the thread, where it has begun to end this process."""
        while self._leaving:
            time.sleep(TICK)

    def _wait_for_closed(self, seconds: float) -> None:
        """Waits until the others have read the last message; at the start also for those that are still to come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._connections:
            time.sleep(TICK)
        while time.monotonic() < self._began + LINGER and (self._connections or self._missing()):
            time.sleep(TICK)

    # Connecting.

    def _listen(self) -> None:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        try:
            self._listener = socket.create_server(("", self.place.port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            port, taken = self.place.port, error.errno == errno.EADDRINUSE
            problem = (
                f"port {port} is taken" if taken else f"can't listen on port {port} ({os.strerror(error.errno or 0)})"
            )
            raise UserError(f"{problem}: {OTHER_PORT}") from error

    def _wait_for_all(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._all_here.wait(TICK):
            if self.stop() or time.monotonic() > end:
                self._began = -LINGER  # there is no one to wait for
            if self.stop():
                raise KeyboardInterrupt
            if time.monotonic() > end:
                missing = ", ".join(map(str, self._missing()))
                raise UserError(
                    f"not all processes have come to {self.place} within {seconds} s (missing: process {missing}): "
                    "start every process, and let the port be reached"
                )

    def _call(self, seconds: float) -> None:
        """Connects to process 0, which may start later."""
        end, foreign = time.monotonic() + seconds, 0
        while foreign < 3:
            if self.stop():
                raise KeyboardInterrupt
            if time.monotonic() > end:
                raise UserError(
                    f"no answer from {self.place} within {seconds} s: start every process, and let the port be reached"
                )
            try:
                connection = Connection(socket.create_connection((self.place.host, self.place.port), timeout=2))
            except (OSError, UnicodeError, OverflowError):  # not there yet, or a name that isn't known yet
                time.sleep(2 * TICK)
                continue
            if self._greeted(connection):
                self._connections = [connection]
                return
            connection.socket.close()
            foreign += 1
            time.sleep(1)
        raise UserError(
            f"{self.place} is answered by another program, or by a run that has all its processes: {OTHER_PORT}"
        )

    def _greeted(self, connection: Connection) -> bool:
        """Reads the greeting of process 0 and introduces this process."""
        messages = connection.receive()
        if not messages or messages[0].get("kind") != GREETING:
            return False
        connection.process = 0
        connection.send("hello", process=self.place.process, processes=self.place.processes)
        self._handle_all(connection, messages[1:])
        return True

    def _missing(self) -> list[int]:
        """Numbers of the processes that have not connected to process 0; in others, none."""
        if self._listener is None:
            return []
        return sorted(set(range(1, self.place.processes)) - self._came)

    # The thread.

    def _start(self) -> None:
        for channel in (self._listener, *self._connections):
            if channel is not None:
                self._watch(channel)
        self._note_arrivals()
        threading.Thread(target=self._run, name="peers", daemon=True).start()

    def _watch(self, channel: socket.socket | Connection) -> None:
        own = channel if isinstance(channel, socket.socket) else channel.socket
        self._selector.register(own, selectors.EVENT_READ, channel)

    def _run(self) -> None:
        beaten = 0.0
        while True:
            for key, _ in self._selector.select(TICK):
                if isinstance(key.data, Connection):
                    self._read(key.data)
                else:
                    self._accept(key.data)
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                for other in self._connections:
                    other.beat()
            self._look()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = Connection(listener.accept()[0])
            connection.send(GREETING)
            self._watch(connection)

    def _read(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages is None or not self._understood(connection, messages):
            self._selector.unregister(connection.socket)
            connection.socket.close()
            if connection in self._connections:
                self._connections.remove(connection)
                if not connection.done:
                    self._gone(connection.process)

    def _understood(self, connection: Connection, messages: list[dict[str, Any]]) -> bool:
        """Handles messages; False if they are from another program that happens to send JSON."""
        try:
            self._handle_all(connection, messages)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _handle_all(self, connection: Connection, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            handler = {
                "hello": self._on_hello,
                "value": self._on_value,
                "signal": self._on_signal,
                "fail": self._on_fail,
                "bye": self._on_bye,
            }.get(message.get("kind", ""))
            if handler is not None and (connection.process != UNKNOWN or handler == self._on_hello):
                handler(connection, message)

    def _on_hello(self, connection: Connection, message: dict[str, Any]) -> None:
        process, processes = int(message["process"]), message.get("processes")
        before, self._came = self._came, self._came | {process}
        if self._ending is not None:  # it comes when the run has already failed
            connection.process, connection.done = process, True
            connection.send("fail", text=self._ending.text, status=self._ending.status)
        elif processes != self.place.processes:
            self._end_all(
                f"process {process} was started with processes={processes}, process 0 with "
                f"processes={self.place.processes}: give all the same number",
                2,
                connection,
            )
        elif process in before | {0}:
            self._end_all(f"two processes have process={process}: number them from 0", 2, connection)
        else:
            connection.process = process
            self._connections.append(connection)
            self._note_arrivals()

    def _note_arrivals(self) -> None:
        """Closes the port when all are there: JAX's coordination service takes it next."""
        if not self._missing() and not self._all_here.is_set():
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
            self._all_here.set()
            self._note_done()

    def _note_done(self) -> None:
        if self._all_here.is_set() and all(other.done for other in self._connections):
            self._all_done.set()

    def _on_value(self, connection: Connection, message: dict[str, Any]) -> None:
        connection.values.put(message.get("value"))

    def _on_signal(self, connection: Connection, message: dict[str, Any]) -> None:
        if self.stop.signal is None:
            self.stop.signal = int(message["number"])

    def _on_bye(self, connection: Connection, message: dict[str, Any]) -> None:
        connection.done = True
        self._note_done()

    def _on_fail(self, connection: Connection, message: dict[str, Any]) -> None:
        """Ends a little later, so that a main thread with the same error can say it itself."""
        connection.done = True
        who = message.get("process")
        text = str(message.get("text")) if who is None else f"process {who}: {message.get('text')}"
        self._broadcast("fail", text=text, status=message["status"], without=connection)
        self._set_ending(text, int(message["status"]), SETTLE)
        if not self.place.process:  # it waits for this
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _gone(self, process: int) -> None:
        if self._ending is None and not self._leaving:
            after = "" if self._signal is None else f" after {_name(self._signal)}"
            self._end_all(f"process {process} is gone{after}{self._continue()}", self._status(1))

    def _look(self) -> None:
        """Looks at the clock and at the signals of this process."""
        now = time.monotonic()
        if self._signal is None and self.stop.signal is not None:
            self._signal, self._progress = self.stop.signal, now
            self._broadcast("signal", number=self._signal)
        if now - self._looked > 3 * BEAT:  # this process itself was stopped: what the others sent is still to be read
            for other in self._connections:
                other.heard = now
        self._looked = now
        if self._ending is None and not self._leaving:
            self._look_for_silence(now)
        if self._ending is not None and now >= self._ending.at:
            self._exit()

    def _look_for_silence(self, now: float) -> None:
        allowed = self.place.silence if self._signal is None else min(AFTER_SIGNAL, self.place.silence)
        for other in self._connections:
            if now - other.heard > allowed:
                return self._end_all(
                    f"process {other.process} has been silent for {allowed} s: it hangs, or its machine is down"
                    f"{self._continue()}",
                    self._status(1),
                )
        late = self._signal is not None and not self._agreed_to_stop and now - self._progress > self.place.silence
        if late:
            self._end_all(
                f"no step ended within {self.place.silence} s after {_name(self._signal)}{self._continue()}",
                self._status(1),
            )
        return None

    def _status(self, otherwise: int) -> int:
        return otherwise if self._signal is None else 128 + self._signal

    def _continue(self) -> str:
        if self.run is None:
            return "; start all processes again"
        return (
            f"; the last checkpoint is intact; continue with: {line('train')} --resume {self.run} (all processes, "
            "--multihost as before)"
        )

    # Ending.

    def _end_all(self, text: str, status: int, also: Connection | None = None) -> None:
        self._set_ending(text, status, 0)
        self._broadcast("fail", text=text, status=status)
        if also is not None:
            also.send("fail", text=text, status=status)

    def _set_ending(self, text: str, status: int, seconds: float) -> None:
        if self._ending is None:
            self._ending = Ending(text, status, time.monotonic() + seconds)

    def _broadcast(self, kind: str, without: Connection | None = None, **facts: Any) -> None:
        for other in list(self._connections):
            if other is not without:
                other.send(kind, **facts)

    def _exit(self) -> None:
        """Ends this process with one line, unless the main thread is already ending it."""
        assert self._ending is not None
        with self._lock:
            if self._leaving:
                self._ending = self._ending._replace(at=float("inf"))
                return
            self._leaving = True
        say(self._ending.text)
        threading.Thread(target=self._leave, args=(self._ending.status,), daemon=True).start()
        self._ending = self._ending._replace(at=float("inf"))

    def _leave(self, status: int) -> NoReturn:
        if not self.place.process:
            self._wait_for_closed(CLOSE)
        os._exit(status)


def say(text: str) -> None:
    """Writes an error as one line, from whatever thread; not print, which must not run inside another print."""
    start = "\n" if sys.stderr.isatty() else ""  # there a progress bar may stand in this line
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{program()}: {' '.join(text.split())}\n".encode())


def _name(number: int | None) -> str:
    return signal.Signals(number).name if number else "a signal"


def relay(host: str, port: int) -> str:
    """Opens an address on this machine that leads to another; it stays open when the other machine is gone.

    JAX's coordination service aborts a process at once, with a stack trace, when the connection to process 0 is
    closed. Through the relay it notices only by its own heartbeats, long after this module has ended the process.

    Returns:
      ``127.0.0.1:PORT``.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            near = listener.accept()[0]
            far = _reach(host, port)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(*pair, near), daemon=True).start()

    def pump(source: socket.socket, target: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while read := source.recv(1 << 16):
                target.sendall(read)
            if source is near:
                target.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, name="relay", daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _reach(host: str, port: int) -> socket.socket:
    """Connects to an address where a program will soon listen."""
    while True:
        try:
            found = socket.create_connection((host, port), timeout=2)
        except OSError:
            time.sleep(TICK)
        else:
            found.settimeout(None)
            return found
