"""Several processes as one run: how they find each other, what only the first does, and one decision to stop.

Every process runs the same command. Imports JAX only where it is used: who joins whom is read before that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from minigpt_flax.errors import Unsaved, UserError, nearest
from minigpt_flax.invoked import program
from minigpt_flax.train.stop import Stop

KEYS = {"coordinator": str, "processes": int, "process": int, "timeout": int}
ENVIRONMENT = {"coordinator": "JAX_COORDINATOR_ADDRESS", "processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}
PATIENCE = 300  # seconds
TOLD = {error.__name__: error for error in (UserError, Unsaved)}  # what the first process meets and tells the others
FORM = 'write --multihost auto, or --multihost "coordinator=HOST:PORT,processes=N,process=I"'


def read_multihost(text: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Reads who joins whom: ``auto`` leaves it to the environment and the cluster.

    Args:
      text: as typed.
      environment: variables; ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID`` are read.

    Raises:
      UserError: it can't be read.

    >>> read_multihost("coordinator=10.0.0.1:1234,processes=2,process=0")
    {'coordinator': '10.0.0.1:1234', 'processes': 2, 'process': 0}
    """
    if text == "auto":
        pairs = [(key, environment[name]) for key, name in ENVIRONMENT.items() if name in environment]
    else:
        pairs = [part.partition("=")[::2] for part in text.split(",")]
    found: dict[str, Any] = {}
    for key, value in ((key.strip(), value.strip()) for key, value in pairs):
        if key not in KEYS:
            raise UserError(f"--multihost {text!r} has no key {key!r}{nearest(key, KEYS)}: {FORM}")
        if KEYS[key] is int and not value.isdecimal():
            raise UserError(f"--multihost: {key} must be a whole number, got {value!r}")
        found[key] = KEYS[key](value)
    if text != "auto" and not {"coordinator", "processes", "process"} <= found.keys():
        raise UserError(f"--multihost {text!r} leaves something open: {FORM}")
    if not found.get("process", 0) < found.get("processes", 1 << 32):
        raise UserError(f"--multihost: process {found['process']} of {found['processes']}: they count from 0")
    host, colon, port = found.get("coordinator", "host:1").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise UserError(f"--multihost: the coordinator must be HOST:PORT, got {found['coordinator']!r}")
    return found


def join(text: str) -> None:
    """Makes this process one of several; only the first speaks on the standard output from now on.

    Raises:
      UserError: nothing says who the others are.
    """
    found = read_multihost(text)
    import jax

    # The service would take SIGTERM for itself; ours tells all processes of it.
    jax.config.update("jax_enable_preemption_service", False)
    patience = found.get("timeout", PATIENCE)
    with _deadline(patience, found):
        try:
            jax.distributed.initialize(
                found.get("coordinator"),
                found.get("processes"),
                found.get("process"),
                initialization_timeout=patience + 60,  # it would end the process with a stack trace
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(f"--multihost {text!r} finds no other processes ({error}): {FORM}") from error
    if jax.process_index() > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _deadline(seconds: int, found: Mapping[str, Any]) -> Iterator[None]:
    """Ends the process with a line when the others don't come in time; JAX's own waiting can't be interrupted."""
    where = found.get("coordinator", "the cluster's coordinator")
    who = f"no answer from {where}" if found.get("process") else f"not all processes have come to {where}"

    def leave() -> None:
        os.write(
            2, f"{program()}: {who} within {seconds} s: start every process, and let the port be reached\n".encode()
        )
        os._exit(2)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    import jax

    return jax.process_index() == 0


def from_first(function: Callable[[], Any]) -> Any:
    """What the first process finds, or the mistake that it meets, for all; nobody goes on before it is there.

    Args:
      function: called in the first process only; returns what JSON can say.

    Raises:
      UserError: the function did.
      Unsaved: the function did.
    """
    import jax

    if jax.process_count() == 1:
        return function()
    said: dict[str, Any] = {}
    if is_first():
        try:
            said["found"] = function()
        except tuple(TOLD.values()) as error:
            said |= {"mistake": str(error), "kind": type(error).__name__}
    said = json.loads(_broadcast(json.dumps(said).encode()))
    if "mistake" in said:
        raise TOLD.get(said["kind"], UserError)(said["mistake"])
    return said["found"]


def _broadcast(text: bytes) -> bytes:
    """The first process's text."""
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all

    length = int(broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text[:length].ljust(length, b" "), np.uint8)
    return np.asarray(broadcast_one_to_all(padded)).tobytes()


@contextmanager
def held_by_first(context: AbstractContextManager) -> Iterator[None]:
    """Enters a context in the first process only."""
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
        return number > 0
