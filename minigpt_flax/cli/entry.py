"""Run a command with its signals and streams; errors become an exit status and one line. Imports no JAX."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from minigpt_flax import streams
from minigpt_flax.errors import Interrupted
from minigpt_flax.explain import explain
from minigpt_flax.text import printable, shortened
from minigpt_flax.train.stop import Signals

LONGEST = 1000  # characters of an error's line, at most: a name may have thousands

_own_process = False  # whether this process runs only a command


def start(main: Callable[[], int]) -> NoReturn:
    """Runs ``main`` as the whole process."""
    global _own_process
    _own_process = True
    streams.open_missing()
    from minigpt_flax.train.parallel import xla_flags

    xla_flags.huge_pages()
    leave(main())


def leave(status: int) -> NoReturn:
    """Ends the process; after a failure without waiting for threads that still compile.

    With several processes it never waits: they have waited for each other already, and JAX would do so again.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    processes = sys.modules.get("minigpt_flax.train.parallel.multihost")
    if status or (processes is not None and processes.peers() is not None):
        os._exit(status)
    sys.exit(status)


def guarded(
    program: str,
    command: Callable[[], int],
    name: str = "train",
    arguments: Sequence[str] = (),
) -> int:
    """Runs a command and turns its errors into an exit status and one line on stderr.

    Args:
      program: name of the program, printed before an error.
      command: returns its exit status.
      name: of the command.
      arguments: of the command; with ``--multihost`` an error is also sent to the other processes.

    Returns:
      The exit status, that of the command; 2 for a user error; 1 for a request that can't be carried out; 128 + the
      signal that ended it, so 141 (SIGPIPE) if the reader of its output closed the pipe. An unexpected error is raised.
    """
    with streams.protected():
        try:
            with Signals(_own_process):
                return _flushed(command)
        except KeyboardInterrupt as error:
            return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
        except Exception as error:
            ending = explain(error, name)
            if ending is None:
                raise
            status, line = ending
            print(printable(f"{program}: {shortened(' '.join(line.split()), LONGEST)}"), file=sys.stderr, flush=True)
            if any(argument.startswith("--multihost") for argument in arguments):
                from minigpt_flax.train.parallel.multihost import report_failure  # sockets, which take long to import

                report_failure(arguments, line, status)
            return status


def _flushed(command: Callable[[], int]) -> int:
    try:
        status = command()
    except SystemExit:  # --help, --version
        sys.stdout.flush()
        raise
    if sys.stdout is not None:
        sys.stdout.flush()
    return status
