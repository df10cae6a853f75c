"""Run a command: its signals, its streams, and every ending as an exit status and at most one line. Imports no JAX."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from minigpt_flax import streams
from minigpt_flax.errors import Failed, Interrupted, UserError
from minigpt_flax.text import printable, shortened
from minigpt_flax.train.processes import peers
from minigpt_flax.train.stop import Signals

MISTAKES = (  # the errors of a path that was named wrongly; others, such as a full disk, are nobody's mistake
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EEXIST, errno.EROFS, errno.EINVAL, errno.ENXIO, errno.EMLINK,
)  # fmt: skip
LOWER = {  # by command: what takes memory
    **dict.fromkeys(
        ("train", "compare"), "--batch-size (and raise --accum by as much), --context, --width or --layers"
    ),
    "sample": "--num or --max-tokens",
    "diagnose": "--batches, or choose studies with --only",
    "report": "the number of runs",
}
OTHERS = "the memory that other programs take"
LONGEST = 1000  # characters of an error's line, at most: a name may have thousands
EXHAUSTED = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "out of memory", "Out of memory", "bad_alloc")


_own_process = False  # whether this process runs nothing but a command


def start(main: Callable[[], int]) -> NoReturn:
    """Runs ``main`` as the whole process."""
    global _own_process
    _own_process = True
    streams.open_missing()
    from minigpt_flax.train import xla

    xla.huge_pages()
    leave(main())


def leave(status: int) -> NoReturn:
    """Ends the process; after a failure at once, without waiting for threads that still compile.

    One of several processes has already waited for the others, and JAX would do so again.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if status or peers() is not None:
        os._exit(status)
    sys.exit(status)


def guarded(
    program: str,
    command: Callable[[], int],
    name: str = "train",
    on_failure: Callable[[str, int], None] = lambda line, status: None,
) -> int:
    """Runs a command.

    Args:
      program: how it is called where it reports an error.
      command: returns its exit status.
      name: of the command.
      on_failure: called with the line of an error and the exit status, when the line is printed.

    Returns:
      The exit status: its own; 2 for a user's mistake and 1 for what can't go on, each told in one line; 128 + the
      signal that ended it, 141 (SIGPIPE) where the reader of its output left. An error that nobody foresaw is raised.
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
            on_failure(line, status)
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


def explain(error: BaseException, name: str = "train") -> tuple[int, str] | None:
    """Exit status and line of an error; None for one that is a fault of the program.

    Args:
      error: what a command raised.
      name: of the command.
    """
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Failed):
        return 1, str(error)
    if _is_memory(error):
        saved = "; checkpoints saved before are intact" if name in ("train", "compare") else ""
        return 1, f"out of memory{_because(error)}: lower {LOWER.get(name, OTHERS)}{saved}"
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RecursionError):
        return 2, "the input is nested too deeply: simplify it"
    if isinstance(error, ValueError) and any(word in str(error) for word in ("null byte", "surrogates not allowed")):
        return 2, f"a name has a character that it can't have here ({_first(error)}): rename it"
    if _is_platform(error):
        wanted = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}"
        return 2, f"JAX can't use {wanted} on this machine: unset it, or set it to cpu{_because(error)}"
    return None


def _is_platform(error: BaseException) -> bool:
    """Whether JAX found no device of the platform that the environment names."""
    if isinstance(error, AssertionError) and "JAX_PLATFORMS" in os.environ:
        import traceback

        frames = traceback.extract_tb(error.__traceback__)
        return bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
    return isinstance(error, RuntimeError) and "nitialize backend" in str(error)


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    jax_error = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return (jax_error or isinstance(error, RuntimeError)) and any(word in str(error) for word in EXHAUSTED)


def _because(error: BaseException) -> str:
    text = _first(error).removeprefix("RESOURCE_EXHAUSTED: ")
    return f" ({text})" if text else ""


def _first(error: BaseException) -> str:
    """The first line of an error, without what only developers read."""
    return (str(error).strip().splitlines() or [""])[0][:200].rstrip(" .:")


def _of_system(error: OSError) -> tuple[int, str]:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    said = f"{where}: {error.strerror or error}" if where else str(error.strerror or error)
    if where and error.errno in MISTAKES:
        return 2, f"can't use {said}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        said += ": make room; what was saved before is intact"
    return 1, said
