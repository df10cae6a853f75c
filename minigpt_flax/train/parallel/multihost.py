"""Several processes as one run: how they find each other, values of process 0 for all, one decision to stop.

Every process runs the same command. Imports JAX only where it is used: who joins whom is read before that.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from minigpt_flax.errors import Diverged, Failed, Unsaved, UserError, nearest
from minigpt_flax.streams import Stream
from minigpt_flax.train.parallel.peers import LINGER, Peers, Place, relay, say
from minigpt_flax.train.stop import Stop

KEYS = {"coordinator": str, "processes": int, "process": int, "timeout": int, "silence": int}
ENVIRONMENT = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
PATIENCE = 300  # seconds
LEAST = {"processes": 1, "timeout": 1, "silence": 5}  # a heartbeat comes every second
TOLD = {error.__name__: error for error in (UserError, Unsaved, Diverged)}  # what process 0 meets and tells the others
FORM = 'write --multihost auto, or --multihost "coordinator=HOST:PORT,processes=N,process=I"'


def read_multihost(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Reads which processes form a run: ``auto`` takes it from the environment and the cluster.

    Args:
      text: as typed.
      environment: variables; ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are read.

    Raises:
      UserError: it can't be read.

    >>> read_multihost("coordinator=10.0.0.1:1234,processes=2,process=0")
    {'coordinator': '10.0.0.1:1234', 'processes': 2, 'process': 0}
    """
    first, _, rest = text.partition(",")
    auto = first.strip() == "auto"
    pairs = [part.partition("=")[::2] for part in (rest if auto else text).split(",") if part]
    if auto:
        pairs += [(key, environment[name]) for key, name in ENVIRONMENT.items() if name in environment]
    found: dict[str, Any] = {}
    for key, value in ((key.strip(), value.strip()) for key, value in pairs):
        if key not in KEYS:
            raise UserError(f"--multihost {text!r} has no key {key!r}{nearest(key, KEYS)}: {FORM}")
        if KEYS[key] is int and not value.isdecimal():
            raise UserError(f"--multihost: {key} must be a whole number, got {value!r}")
        found[key] = KEYS[key](value)
    if not auto and not {"coordinator", "processes", "process"} <= found.keys():
        raise UserError(f"--multihost {text!r} leaves something open: {FORM}")
    for key, least in LEAST.items():
        if found.get(key, least) < least:
            raise UserError(f"--multihost: {key} must be at least {least}, got {found[key]}")
    if not found.get("process", 0) < found.get("processes", 1 << 32):
        raise UserError(f"--multihost: process {found['process']} of {found['processes']}: they count from 0")
    host, colon, port = found.get("coordinator", "host:1").rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"--multihost: the coordinator must be HOST:PORT, got {found['coordinator']!r}")
    return found


@contextmanager
def joined(text: str | None, stop: Stop) -> Iterator[None]:
    """Makes this process one of several; only process 0 prints to standard output from now on.

    The processes first connect to each other, which needs no JAX and can wait without hanging. JAX's coordination
    service then gets the same port.

    Args:
      text: what ``--multihost`` says; None leaves the process alone.
      stop: of this process.

    Raises:
      UserError: the others can't be found.
    """
    global _peers
    if text is None:
        yield
        return
    with Peers(find_place(text), stop) as _peers:
        _peers.connect(_peers.place.timeout)
        yield


_peers: Peers | None = None
_stdout: Any = None  # stays open to the end of the process


def peers() -> Peers | None:
    """The other processes; None if this is the only one."""
    return _peers


def find_place(text: str) -> Place:
    """Where the processes meet, by the text, the environment or the cluster.

    Raises:
      UserError: nothing says it.
    """
    found = read_multihost(text)
    if not {"coordinator", "processes", "process"} <= found.keys():
        found = {**_of_cluster(text, found), **found}
    host, _, port = found["coordinator"].rpartition(":")
    limits = {key: found[key] for key in ("timeout", "silence") if key in found}
    return Place(host.strip("[]"), int(port), found["process"], found["processes"], **limits)


def _of_cluster(text: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What JAX knows of the cluster that this process runs on (SLURM, Open MPI, Kubernetes, Cloud TPU)."""
    from jax._src.clusters import ClusterEnv

    try:
        values = ClusterEnv.auto_detect_unset_distributed_params(
            found.get("coordinator"), found.get("processes"), found.get("process"), None, None, PATIENCE
        )[:3]
        missing = None in values
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise UserError(f"--multihost {text!r} finds no other processes ({error}): {FORM}") from error
    if missing:
        raise UserError(f"--multihost {text!r} finds no other processes: {FORM}")
    return dict(zip(("coordinator", "processes", "process"), values, strict=True))


def start_jax() -> None:
    """Makes the devices of all processes one, after all have connected.

    Raises:
      UserError: JAX can't.
    """
    if _peers is None:
        return
    place = _peers.place
    _keep_stdout(place.process == 0)
    address = relay(place.host, place.port) if place.process else str(place)
    without_proxy = [os.environ.get("no_grpc_proxy", ""), place.host, "localhost", "127.0.0.1"]
    os.environ["no_grpc_proxy"] = ",".join(filter(None, without_proxy))
    import jax

    # The service would take SIGTERM for itself; ours tells all processes of it.
    jax.config.update("jax_enable_preemption_service", False)
    with suppress(AttributeError):
        jax.config.update("jax_check_proxy_envs", False)  # it would warn of the variable set here
    with _deadline(place):
        try:
            jax.distributed.initialize(
                address,
                place.processes,
                place.process,
                initialization_timeout=place.timeout + 60,  # it would end the process with a stack trace
                heartbeat_timeout_seconds=max(100, 2 * place.silence),  # ours comes first
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(f"JAX can't join the processes at {place}: {error}") from error


def _keep_stdout(first: bool) -> None:
    """Leaves standard output to this program alone, and only in process 0: Gloo prints to it, among JSON lines."""
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
    """Ends the process with a line when JAX's waiting for the others, which can't be interrupted, takes too long."""

    def leave() -> None:
        say(f"JAX's coordination service at {place} doesn't answer within {place.timeout} s")
        os._exit(2)

    timer = threading.Timer(place.timeout, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tell_failure(arguments: Sequence[str], text: str, status: int) -> None:
    """Tells the others that this process has failed before it joined them, so that they needn't wait for it.

    Args:
      arguments: of the command line.
      text: the error.
      status: exit status.
    """
    typed = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "--multihost"]
    typed += [word.partition("=")[2] for word in arguments if word.startswith("--multihost=")]
    if _peers is None and typed:
        with suppress(UserError, KeyboardInterrupt):
            others = Peers(find_place(typed[-1]))
            others.introduce(LINGER)
            others.fail(text, status)


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    import jax

    return jax.process_index() == 0


def from_first(function: Callable[[], Any]) -> Any:
    """What process 0 finds, or the error that it meets, for all; no process continues before it is there.

    Args:
      function: called in process 0 only; returns what JSON can say.

    Raises:
      UserError: the function did.
      Failed: the function did, or it met an ``OSError``.
    """
    if _peers is None:
        return function()
    said: dict[str, Any] = {}
    if _peers.place.process == 0:
        try:
            said["found"] = function()
        except (UserError, Failed, OSError) as error:
            kind = next((name for name, known in TOLD.items() if isinstance(error, known)), "Failed")
            _peers.tell({"mistake": str(error), "kind": kind})
            raise
    said = _peers.tell(said)
    if "mistake" in said:
        raise TOLD.get(said["kind"], Failed)(said["mistake"])
    return said["found"]


@contextmanager
def held_by_first(context: AbstractContextManager) -> Iterator[None]:
    """Enters a context in process 0 only."""
    with ExitStack() as stack:
        from_first(lambda: stack.enter_context(context))
        yield


def together(stop: Stop) -> Stop:
    """One decision to stop for all processes."""
    import jax

    return stop if jax.process_count() == 1 else Together(stop)


class Together(Stop):
    """Whether any process was asked to stop: all get the same answer to the same call, one call late.

    The answer travels as the training does, from device to device, and nobody waits for it: a call sends this
    process's own answer and returns the one sent before.

    Args:
      own: of this process; learns of the signal of another.
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
        """Asks all."""
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
