"""Standard output and standard error that survive: any encoding, a closed stream, a reader that leaves, a full disk."""

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
"""What to do when standard output can't be written: returns to continue without it, or raises."""

BROKEN_PIPE = 13  # the number of SIGPIPE, which Windows lacks
_GONE = (errno.EPIPE, errno.ESHUTDOWN, errno.ECONNRESET)
_lost: list[Lost] = []  # the innermost is asked


def reader_left(error: OSError) -> bool:
    """Whether the reader of a pipe has closed it."""
    return error.errno in _GONE


@contextmanager
def losing(lost: Lost) -> Iterator[None]:
    """Asks ``lost`` inside the block when standard output can't be written."""
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
    """A text stream whose first failed write ends its output and not the program.

    What is written later goes to the null device, so that the interpreter can flush it when it exits.

    Args:
        stream: what is wrapped.
        failed: called with the error of the first write that fails.
    """

    def __init__(self, stream: Any, failed: Lost):
        self._stream, self._failed = stream, failed

    def write(self, text: str) -> int:
        """Writes text, if that is still possible."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes, if that is still possible."""
        self._try(self._stream.flush)

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except UnicodeEncodeError:  # a stream that can't be told to escape
            raise
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            self._silence()
            self._failed(error if isinstance(error, OSError) else OSError(errno.EBADF, os.strerror(errno.EBADF)))

    def _silence(self) -> None:
        """Sends the rest to the null device."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def redirect(self, stream: Any) -> None:
        """Writes to another stream from now on."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


def open_missing() -> None:
    """Opens the null device in the place of standard streams that the parent closed.

    The next file to be opened would get their number, and what C code prints would be written into it.
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
    """Wraps standard output and standard error inside the block; characters that they can't encode are escaped."""
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
