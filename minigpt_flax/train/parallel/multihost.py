"""Several processes as one run: they find each other, broadcast values of process 0, and stop at the same step.

Every process runs the same command. JAX is imported only after the processes are connected.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from minigpt_flax.errors import CheckpointError, Diverged, Failed, UserError, nearest
from minigpt_flax.streams import Stream
from minigpt_flax.train.parallel.peers import LINGER, Peers, Place, print_error, relay
from minigpt_flax.train.stop import Stop

KEYS = {"coordinator": str, "processes": int, "process": int, "timeout": int, "silence": int}
ENVIRONMENT = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
DETECTION_TIMEOUT = 300  # seconds for JAX to detect the cluster
MINIMUM = {"processes": 1, "timeout": 1, "silence": 5}  # heartbeats are sent every second
ERRORS = {error.__name__: error for error in (UserError, CheckpointError, Diverged)}  # broadcast with their type
FORM = 'write --multihost auto, or --multihost "coordinator=HOST:PORT,processes=N,process=I"'


def read_multihost(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Parses ``--multihost``: ``auto`` reads the environment and detects the cluster.

    Args:
      text: value of the flag.
      environment: variables; ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are read.

    Raises:
      UserError: the value is invalid.

    >>> read_multihost("coordinator=10.0.0.1:1234,processes=2,process=0")
    {'coordinator': '10.0.0.1:1234', 'processes': 2, 'process': 0}
    """
    first, _, rest = text.partition(",")
    auto = first.strip() == "auto"
    pairs = [part.partition("=")[::2] for part in (rest if auto else text).split(",") if part]
    if auto:
        pairs += [(key, environment[name]) for key, name in ENVIRONMENT.items() if name in environment]
    settings: dict[str, Any] = {}
    for key, value in ((key.strip(), value.strip()) for key, value in pairs):
        if key not in KEYS:
            raise UserError(f"--multihost {text!r} has no key {key!r}{nearest(key, KEYS)}: {FORM}")
        if KEYS[key] is int and not value.isdecimal():
            raise UserError(f"--multihost: {key} must be a whole number, got {value!r}")
        settings[key] = KEYS[key](value)
    if not auto and not {"coordinator", "processes", "process"} <= settings.keys():
        raise UserError(f"--multihost {text!r} lacks a key: {FORM}")
    for key, least in MINIMUM.items():
        if settings.get(key, least) < least:
            raise UserError(f"--multihost: {key} must be at least {least}, got {settings[key]}")
    if not settings.get("process", 0) < settings.get("processes", 1 << 32):
        raise UserError(f"--multihost: process {settings['process']} of {settings['processes']}: number them from 0")
    host, colon, port = settings.get("coordinator", "host:1").rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"--multihost: the coordinator must be HOST:PORT, got {settings['coordinator']!r}")
    return settings


@contextmanager
def joined(text: str | None, stop: Stop) -> Iterator[None]:
    """Connects this process to the others of its run; from then on, only process 0 prints to standard output.

    The processes first connect to each other, which needs no JAX and can be interrupted. JAX's coordination service
    then uses the same port.

    Args:
      text: value of ``--multihost``; None for a single process.
      stop: of this process.

    Raises:
      UserError: the other processes can't be reached.
    """
    global _peers
    if text is None:
        yield
        return
    with Peers(find_place(text), stop) as _peers:
        _peers.connect(_peers.place.timeout)
        yield


_peers: Peers | None = None
_stdout: Any = None  # a reference, so that it stays open until the process ends


def peers() -> Peers | None:
    """Returns the other processes; None if this is the only one."""
    return _peers


def find_place(text: str) -> Place:
    """Returns the address and number of this process, from the flag, the environment or the cluster.

    Raises:
      UserError: they are unknown.
    """
    settings = read_multihost(text)
    if not {"coordinator", "processes", "process"} <= settings.keys():
        settings = {**_of_cluster(text, settings), **settings}
    host, _, port = settings["coordinator"].rpartition(":")
    limits = {key: settings[key] for key in ("timeout", "silence") if key in settings}
    return Place(host.strip("[]"), int(port), settings["process"], settings["processes"], **limits)


def _of_cluster(text: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what JAX detects of the cluster that this process runs on (SLURM, Open MPI, Kubernetes, Cloud TPU)."""
    from jax._src.clusters import ClusterEnv

    keys = ("coordinator", "processes", "process")
    coordinator, processes, process = map(settings.get, keys)
    try:
        detect = ClusterEnv.auto_detect_unset_distributed_params
        values = detect(coordinator, processes, process, None, None, DETECTION_TIMEOUT)[:3]
        missing = None in values
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise UserError(f"--multihost {text!r} finds no other processes ({error}): {FORM}") from error
    if missing:
        raise UserError(f"--multihost {text!r} finds no other processes: {FORM}")
    return dict(zip(keys, values, strict=True))


def start_jax() -> None:
    """Initializes JAX's distributed runtime, after all processes have connected.

    Raises:
      UserError: JAX can't connect.
    """
    if _peers is None:
        return
    place = _peers.place
    _keep_stdout(place.process == 0)
    address = relay(place.host, place.port) if place.process else str(place)
    without_proxy = [os.environ.get("no_grpc_proxy", ""), place.host, "localhost", "127.0.0.1"]
    os.environ["no_grpc_proxy"] = ",".join(filter(None, without_proxy))
    import jax

    # The service would handle SIGTERM itself; here, Peers sends it to all processes.
    jax.config.update("jax_enable_preemption_service", False)
    with suppress(AttributeError):
        jax.config.update("jax_check_proxy_envs", False)  # else JAX warns about the variable set above
    with _deadline(place):
        try:
            jax.distributed.initialize(
                address,
                place.processes,
                place.process,
                initialization_timeout=place.timeout + 60,  # at its own timeout JAX ends the process with a stack trace
                heartbeat_timeout_seconds=max(100, 2 * place.silence),  # Peers detects silence first
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(f"JAX can't join the processes at {place}: {error}") from error


def _keep_stdout(first: bool) -> None:
    """Reserves standard output for this program, in process 0 only: Gloo would print to it, between JSON lines."""
    sys.stdout.flush()
    number, nothing = sys.stdout.fileno(), os.open(os.devnull, os.O_WRONLY)
    own = os.dup(number if first else nothing)
    os.dup2(nothing, number)
    before: Any = sys.stdout
    raw = open(own, "wb", buffering=0) if before.write_through else open(own, "wb")
    global _stdout
    _stdout = io.TextIOWrapper(
        raw, before.encoding, before.errors, line_buffering=True, write_through=before.write_through
    )
    if isinstance(before, Stream):
        before.redirect(_stdout)
    else:
        sys.stdout = _stdout


@contextmanager
def _deadline(place: Place) -> Iterator[None]:
    """Ends the process with an error line if JAX waits too long for the others, which can't be interrupted."""

    def leave() -> None:
        print_error(f"JAX's coordination service at {place} doesn't answer within {place.timeout} s")
        os._exit(2)

    timer = threading.Timer(place.timeout, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def report_failure(arguments: Sequence[str], text: str, status: int) -> None:
    """Reports to the other processes that this one failed before it connected, so that they don't wait for it.

    Args:
      arguments: of the command line.
      text: the error.
      status: exit status.
    """
    values = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "--multihost"]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith("--multihost=")]
    if _peers is None and values:
        with suppress(UserError, KeyboardInterrupt):
            others = Peers(find_place(values[-1]))
            others.introduce(LINGER)
            others.fail(text, status)


def is_first() -> bool:
    """Whether this is process 0, which prints and writes files."""
    import jax

    return jax.process_index() == 0


def broadcast_from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in process 0 and returns its result, or raises its error, in every process.

    Args:
      function: called in process 0 only; its result must be JSON.

    Raises:
      UserError: raised by the function.
      Failed: raised by the function, or in place of its ``OSError``.
    """
    if _peers is None:
        return function()
    message: dict[str, Any] = {}
    if _peers.place.process == 0:
        try:
            message["result"] = function()
        except (UserError, Failed, OSError) as error:
            kind = next((name for name, known in ERRORS.items() if isinstance(error, known)), "Failed")
            _peers.broadcast({"error": str(error), "kind": kind})
            raise
    message = _peers.broadcast(message)
    if "error" in message:
        raise ERRORS.get(message["kind"], Failed)(message["error"])
    return message["result"]


@contextmanager
def on_first_process(context: AbstractContextManager) -> Iterator[None]:
    """Enters a context in process 0 only; its error is raised in every process."""
    with ExitStack() as stack:
        broadcast_from_first(lambda: stack.enter_context(context))
        yield


def synced_stop(stop: Stop) -> Stop:
    """Returns a ``Stop`` that gives all processes the same answer."""
    import jax

    return stop if jax.process_count() == 1 else SyncedStop(stop)


class SyncedStop(Stop):
    """Whether any process was asked to stop: every process gets the same answer, one call late.

    The answer is reduced on the devices, asynchronously as the training itself: a call sends the answer of this process
    and returns the result of the previous call.

    Args:
      own: of this process; its ``signal`` is set if another process received one.
    """

    def __init__(self, own: Stop):
        import jax
        from jax.sharding import AxisType, NamedSharding, PartitionSpec

        super().__init__()
        self.own = own
        mesh = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(AxisType.Auto,))
        self._each, whole = NamedSharding(mesh, PartitionSpec("device")), NamedSharding(mesh, PartitionSpec())
        self._count = jax.device_count()
        self._largest = jax.jit(lambda votes: votes.max(), out_shardings=whole)
        self._sent: Any = None

    def __call__(self) -> bool:
        """Sends the answer of this process; returns the previous answer of all."""
        import jax
        import numpy as np

        before, vote = self._sent, np.full(self._count, self.own.signal or 0, np.int32)
        votes = jax.make_array_from_callback((self._count,), self._each, lambda index: vote[index])
        self._sent = self._largest(votes)
        number = 0 if before is None else int(before)
        if number and self.own.signal is None:
            self.own.signal = number
        if _peers is not None:
            _peers.note_progress(number > 0)
        return number > 0
