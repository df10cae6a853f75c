"""Connections between the processes of one run: connect, exchange values, detect failures.

Process 0 listens on the coordinator's port, and every other process connects to it. A message is a line of JSON, a
heartbeat an empty line. A thread in every process reads them: if a process is gone, silent or has failed, it ends its
own process with one line and ``os._exit``, even while the main thread is blocked, and before JAX's coordination service
aborts with pages of C++ output. Imports no JAX.
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
from minigpt_flax.progress import Reminder
from minigpt_flax.train.stop import Stop

GREETING = "minigpt"
TICK = 0.1  # seconds between two checks of the clock
BEAT = 1.0  # seconds between two heartbeats
UNKNOWN = -1  # number of a process that hasn't sent hello yet
LONGEST = 1 << 20  # bytes of a message, at most
AFTER_SIGNAL = 20  # seconds of silence that end a run after a signal, as schedulers kill it soon
LINGER = 10  # seconds that a process which fails early waits for the others, to report its error to them
SETTLE = 2.0  # seconds in which news may arrive that another process has caused an error
OTHER_PORT = "give all processes another port in coordinator=HOST:PORT"
EXPECTED = 10.0  # seconds that a process waits for the others to start before it prints whom it waits for
CLOSE = 5.0  # seconds that process 0 waits for the others to leave first


@dataclass(frozen=True)
class Place:
    """The coordinator's address, and the number of this process.

    Attributes:
      host: of process 0.
      port: on which process 0 listens.
      process: number of this process.
      processes: number of processes.
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
    """How this process will end: its last line, exit status and time."""

    text: str
    status: int
    at: float


class Connection:
    """A socket, the bytes of an incomplete line, and the time of the last message."""

    def __init__(self, own: socket.socket, process: int = UNKNOWN):
        own.settimeout(5)  # for a process that stops reading
        self.socket, self.process = own, process
        self.heard = time.monotonic()  # time of the last message or heartbeat
        self.done = False  # has sent bye or fail
        self.values: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, kind: str, **facts: Any) -> None:
        """Sends a message; a closed connection is detected by the reader."""
        self._send(json.dumps({"kind": kind, **facts}).encode() + b"\n")

    def beat(self) -> None:
        """Sends a heartbeat."""
        self._send(b"\n")

    def _send(self, text: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(text)

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the received messages; None if the connection is closed or speaks another protocol."""
        try:
            data = self.socket.recv(1 << 16)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(text) for text in lines if text]
        except TimeoutError:
            return []
        except (OSError, ValueError):
            return None
        self.heard = time.monotonic()
        valid = data and len(self._rest) < LONGEST and all(isinstance(message, dict) for message in messages)
        return messages if valid else None


class Peers:
    """The other processes of this run. Used as a context, which reports to them how this process ended.

    Args:
      place: address and number of this process.
      stop: of this process; a signal to one process is sent to all.

    Attributes:
      run: folder of the run, quoted for the shell; None until it is known.
    """

    def __init__(self, place: Place, stop: Stop | None = None):
        self.place, self.stop = place, stop or Stop()
        self.run: str | None = None
        self._connections: list[Connection] = []  # process 0: one to each; others: one to process 0
        self._connected: set[int] = set()  # processes that have connected to process 0
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._ending: Ending | None = None
        self._leaving = False  # the main thread is ending this process, or the thread has printed the last line
        self._lock = threading.Lock()
        self._all_here, self._all_done = threading.Event(), threading.Event()
        self._signal: int | None = None
        self._progress = self._checked = self._began = time.monotonic()
        self._agreed_to_stop = False

    # Called by the main thread.

    def connect(self, seconds: float) -> None:
        """Connects to process 0; process 0 listens and waits until all others have connected.

        Raises:
          UserError: the port is taken, or not all processes connect in time.
          KeyboardInterrupt: a signal arrived.
        """
        self.introduce(seconds)
        if not self.place.process:
            self._wait_for_all(seconds)

    def introduce(self, seconds: float) -> None:
        """Connects to process 0, or starts to listen; doesn't wait for the others.

        Raises:
          UserError: the port is taken, or process 0 doesn't answer.
          KeyboardInterrupt: a signal arrived.
        """
        if self.place.process:
            self._call(seconds)
        else:
            self._listen()
        self._start()

    def decide(self, value: Any, decide: Callable[[dict[int, Any]], Any]) -> Any:
        """Gathers a value of each process in process 0, and returns its decision in every process.

        Args:
          value: of this process; JSON.
          decide: ``{process: value} -> decision``, also JSON; called in process 0.
        """
        if self.place.process:
            self._connections[0].send("value", value=value)
            return self._connections[0].values.get()
        values = {0: value} | {other.process: other.values.get() for other in self._connections}
        return self.broadcast(decide(dict(sorted(values.items()))))

    def broadcast(self, value: Any = None) -> Any:
        """Returns the value of process 0 in every process."""
        if self.place.process:
            return self._connections[0].values.get()
        self._send_all("value", value=value)
        return value

    def note_progress(self, stopping: bool) -> None:
        """Records the end of a step in the main thread, and whether all processes stop after it."""
        self._progress, self._agreed_to_stop = time.monotonic(), stopping

    def goodbye(self) -> None:
        """Waits until every process is done. Process 0 leaves last, as it runs JAX's coordination service."""
        if self.place.process:
            self._connections[0].send("bye")
        self._all_done.wait()
        with self._lock:
            self._wait_if_ending()
            self._leaving = True
        if not self.place.process:
            self._send_all("bye")
            self._wait_for_closed(CLOSE)

    def fail(self, text: str, status: int) -> None:
        """Reports an error of this process to the others, unless another process has failed already."""
        with self._lock:
            self._wait_if_ending()
            self._leaving = True
        self._set_ending(f"process {self.place.process}: {text}", status, float("inf"))
        self._send_all("fail", process=self.place.process, text=text, status=status)
        self._wait_for_closed(CLOSE)

    def __enter__(self) -> Peers:
        """Returns itself; :meth:`connect` connects."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Sends bye, or the error."""
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
        os._exit(1)  # a normal exit of the interpreter would wait for the others

    def _settle(self) -> None:
        """Waits for a message that another process, which may have caused the error here, has ended."""
        end = time.monotonic() + SETTLE
        while time.monotonic() < end:
            time.sleep(TICK)
            self._wait_if_ending()

    def _wait_if_ending(self) -> None:
        """Blocks if the thread is already ending this process."""
        while self._leaving:
            time.sleep(TICK)

    def _wait_for_closed(self, seconds: float) -> None:
        """Waits until the others have read the last message; at the start also for those that haven't connected yet."""
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
        end, remind = time.monotonic() + seconds, Reminder(EXPECTED)
        while not self._all_here.wait(TICK):
            if self.stop() or time.monotonic() > end:
                self._began = -LINGER  # so that the error isn't delayed
            if self.stop():
                raise KeyboardInterrupt
            missing = ", ".join(map(str, self._missing()))
            remind(f"waiting at {self.place} for process {missing}, at most {seconds} s")
            if time.monotonic() > end:
                raise UserError(
                    f"not all processes have connected to {self.place} within {seconds} s (missing: {missing}): "
                    "start every process, and make the port reachable"
                )

    def _call(self, seconds: float) -> None:
        """Connects to process 0, which may start later."""
        end, foreign, remind = time.monotonic() + seconds, 0, Reminder(EXPECTED)
        while foreign < 3:
            if self.stop():
                raise KeyboardInterrupt
            remind(f"waiting for process 0 at {self.place}, at most {seconds} s")
            if time.monotonic() > end:
                raise UserError(
                    f"no answer from {self.place} within {seconds} s: start every process, and make the port reachable"
                )
            try:
                connection = Connection(socket.create_connection((self.place.host, self.place.port), timeout=2))
            except (OSError, UnicodeError, OverflowError):  # not listening yet, or its name doesn't resolve yet
                time.sleep(2 * TICK)
                continue
            if self._greeted(connection):
                self._connections = [connection]
                return
            connection.socket.close()
            foreign += 1
            time.sleep(1)
        raise UserError(f"{self.place} is used by another program, or by a run with all its processes: {OTHER_PORT}")

    def _greeted(self, connection: Connection) -> bool:
        """Reads the greeting of process 0 and sends the number of this process."""
        messages = connection.receive()
        if not messages or messages[0].get("kind") != GREETING:
            return False
        connection.process = 0
        connection.send("hello", process=self.place.process, processes=self.place.processes)
        self._handle_all(connection, messages[1:])
        return True

    def _missing(self) -> list[int]:
        """Returns the numbers of the processes that haven't connected to process 0; in other processes, none."""
        if self._listener is None:
            return []
        return sorted(set(range(1, self.place.processes)) - self._connected)

    # Run by the thread.

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
        last_beat = 0.0
        while True:
            for key, _ in self._selector.select(TICK):
                if isinstance(key.data, Connection):
                    self._read(key.data)
                else:
                    self._accept(key.data)
            if time.monotonic() - last_beat >= BEAT:
                last_beat = time.monotonic()
                for other in self._connections:
                    other.beat()
            self._check()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = Connection(listener.accept()[0])
            connection.send(GREETING)
            self._watch(connection)

    def _read(self, connection: Connection) -> None:
        messages = connection.receive()
        if messages is None or not self._handled(connection, messages):
            self._selector.unregister(connection.socket)
            connection.socket.close()
            if connection in self._connections:
                self._connections.remove(connection)
                if not connection.done:
                    self._on_lost(connection.process)

    def _handled(self, connection: Connection, messages: list[dict[str, Any]]) -> bool:
        """Handles messages; False if they are from another program that also sends JSON."""
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
        before, self._connected = self._connected, self._connected | {process}
        if self._ending is not None:  # the run has already failed
            connection.process, connection.done = process, True
            connection.send("fail", text=self._ending.text, status=self._ending.status)
        elif processes != self.place.processes:
            self._end_all(
                f"process {process} was started with processes={processes}, process 0 with "
                f"processes={self.place.processes}: give all processes the same number",
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
        """Closes the port when all are connected: JAX's coordination service uses it next."""
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
        """Ends after a delay, so that a main thread with the same error can report it itself."""
        connection.done = True
        process = message.get("process")
        text = str(message.get("text")) if process is None else f"process {process}: {message.get('text')}"
        self._send_all("fail", text=text, status=message["status"], without=connection)
        self._set_ending(text, int(message["status"]), SETTLE)
        if not self.place.process:  # the failed process waits for this
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)

    def _on_lost(self, process: int) -> None:
        if self._ending is None and not self._leaving:
            after = "" if self._signal is None else f" after {_name(self._signal)}"
            self._end_all(f"process {process} is gone{after}{self._continue()}", self._status(1))

    def _check(self) -> None:
        """Checks the clock and the signals of this process."""
        now = time.monotonic()
        if self._signal is None and self.stop.signal is not None:
            self._signal, self._progress = self.stop.signal, now
            self._send_all("signal", number=self._signal)
        if now - self._checked > 3 * BEAT:  # this process itself was stopped; messages of the others are still unread
            for other in self._connections:
                other.heard = now
        self._checked = now
        if self._ending is None and not self._leaving:
            self._check_silence(now)
        if self._ending is not None and now >= self._ending.at:
            self._exit()

    def _check_silence(self, now: float) -> None:
        allowed = self.place.silence if self._signal is None else min(AFTER_SIGNAL, self.place.silence)
        for other in self._connections:
            if now - other.heard > allowed:
                return self._end_all(
                    f"process {other.process} has been silent for {allowed} s: it hangs, or its host is down"
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
        self._send_all("fail", text=text, status=status)
        if also is not None:
            also.send("fail", text=text, status=status)

    def _set_ending(self, text: str, status: int, seconds: float) -> None:
        if self._ending is None:
            self._ending = Ending(text, status, time.monotonic() + seconds)

    def _send_all(self, kind: str, without: Connection | None = None, **facts: Any) -> None:
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
        print_error(self._ending.text)
        threading.Thread(target=self._leave, args=(self._ending.status,), daemon=True).start()
        self._ending = self._ending._replace(at=float("inf"))

    def _leave(self, status: int) -> NoReturn:
        if not self.place.process:
            self._wait_for_closed(CLOSE)
        os._exit(status)


def print_error(text: str) -> None:
    """Writes an error as one line, from any thread, without ``print``, which is not reentrant."""
    start = "\n" if sys.stderr.isatty() else ""  # the line may hold a progress bar
    with contextlib.suppress(OSError):
        os.write(2, f"{start}{program()}: {' '.join(text.split())}\n".encode())


def _name(number: int | None) -> str:
    return signal.Signals(number).name if number else "a signal"


def relay(host: str, port: int) -> str:
    """Opens a local address that forwards to another host and stays open when that host is gone.

    JAX's coordination service aborts a process at once, with a stack trace, when the connection to process 0 is closed.
    Through the relay it detects that only by its own heartbeats, long after this module has ended the process.

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
            while data := source.recv(1 << 16):
                target.sendall(data)
            if source is near:
                target.shutdown(socket.SHUT_RDWR)

    threading.Thread(target=serve, name="relay", daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _reach(host: str, port: int) -> socket.socket:
    """Connects to an address, and retries until a program listens there."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=2)
        except OSError:
            time.sleep(TICK)
        else:
            connection.settimeout(None)
            return connection
