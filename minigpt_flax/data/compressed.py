"""Open a text file for reading, decompressed by its suffix."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minigpt_flax.data.encodings import converting_line, utf16_of
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show

_FED = 1 << 13  # compressed bytes at a time: they may expand ten thousandfold
HEAD = 1 << 12  # bytes examined for UTF-16


def _zstd(path: Path) -> Any:
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{show(path)} needs the package zstandard: pip install zstandard") from error
    return _Zstd(path, zstandard.ZstdDecompressor().decompressobj)


class _Zstd(io.RawIOBase):
    """Reads Zstandard frames; unlike the package's own reader, it notices that the last one is incomplete."""

    def __init__(self, path: Path, start_frame: Callable[[], Any]):
        self._file, self._start_frame, self._frame, self._ready = path.open("rb"), start_frame, start_frame(), b""
        self._inside = True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._ready and (data := self._next()):
            self._ready = self._frame.decompress(data)
            self._inside = not self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _next(self) -> bytes:
        """Compressed bytes of the current frame, or of the next one after its end."""
        data = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(_FED)
        if not data and self._inside:
            raise EOFError("the end of the last Zstandard frame is missing")
        if self._frame.eof:
            self._frame = self._start_frame()
        return data


COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": lambda path: gzip.open(path, "rb"),
    ".bz2": lambda path: bz2.open(path, "rb"),
    ".xz": lambda path: lzma.open(path, "rb"),
    ".zst": _zstd,
}
"""Suffixes of compressed files; each is opened as a stream."""


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, without that of the compression.

    >>> suffix_of(Path("posts.JSONL.gz")), suffix_of(Path("book.txt")), suffix_of(Path("book.gz"))
    ('.jsonl', '.txt', '')
    """
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return inner.suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of UTF-8 text for reading, after its byte order mark; errors name the file.

    Raises:
      UserError: it can't be read, its compression is damaged, or it is UTF-16 or UTF-32.
    """
    opener = COMPRESSED.get(path.suffix.lower(), lambda path: path.open("rb"))
    with naming(path), opener(path) as raw:
        file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
        head = file.peek(HEAD)
        if (encoding := utf16_of(head[:HEAD])) is not None:
            raise UserError(f"the file '{path}' is {encoding}, not UTF-8; {converting_line(path, encoding)}")
        if head.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))
        yield file


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors while reading, which may fail at any point."""
    try:
        yield
    except UserError:
        raise
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{show(path)} is damaged: {error}") from error
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a package that need not be installed
            raise
        raise UserError(f"{show(path)} is damaged: {error}") from error
