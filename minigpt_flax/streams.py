"""Robust standard output and standard error: any encoding, a closed stream, a closed pipe, a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minigpt_flax.errors import Failed, Interrupted

Lost = Callable[[OSError], None]
"""Handler of a failed write to standard output: returns to continue without output, or raises."""

BROKEN_PIPE = 13  # number of SIGPIPE, which Windows lacks
_GONE = (errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET)
_lost: list[Lost] = []  # the innermost handler is called


def reader_left(error: OSError) -> bool:
    """Whether the reader of a pipe has closed it."""
    return error.errno in _GONE


@contextmanager
def losing(lost: Lost) -> Iterator[None]:
    """Call ``lost`` inside the block when a write to standard output fails."""
    _lost.append(lost)
    try:
        yield
    finally:
        _lost.remove(lost)


def _give_up(error: OSError) -> None:
    if reader_left(error):
        raise Interrupted(BROKEN_PIPE) from error
    raise Failed(f"standard output can't be written: {error.strerror or error}") from error


class Stream:
    """A text stream whose first failed write ends its output but not the program.

    Later writes go to the null device, so that the interpreter can flush the stream at exit.

    Args:
      stream: the wrapped stream.
      failed: called with the error of the first failed write.
    """

    def __init__(self, stream: Any, failed: Lost):
        self._stream, self._failed = stream, failed

    def write(self, text: str) -> int:
        """Write text, unless an earlier write failed."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several strings."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, unless an earlier write failed."""
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except UnicodeEncodeError:  # the stream can't be configured to escape
            raise
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            self._silence()
            self._failed(error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def _silence(self) -> None:
        """Redirect later writes to the null device."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def redirect(self, stream: Any) -> None:
        """Write to another stream from now on."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def open_missing() -> None:
    """Open the null device in place of standard streams that the parent process closed.

    Otherwise the next opened file would get their file descriptor, and output of C code would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


@contextmanager
def protected() -> Iterator[None]:
    """Wrap standard output and standard error inside the block; characters outside their encoding are escaped."""
    before = sys.stdout, sys.stderr
    sys.stdout = _protect(sys.stdout, lambda error: (_lost[-1] if _lost else _give_up)(error))
    sys.stderr = _protect(sys.stderr, lambda error: None)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _protect(stream: Any, failed: Lost) -> Any:
    if stream is None or isinstance(stream, Stream):
        return stream
    with contextlib.suppress(AttributeError, ValueError, OSError):
        stream.reconfigure(errors="backslashreplace")
    return Stream(stream, failed)
