"""Streams of documents: read text and JSONL files in pieces, join documents, and encode them.

A source may be larger than memory, so no function here holds more than a few megabytes of it.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from minigpt_flax.data.compressed import COMPRESSED as COMPRESSED, open_bytes
from minigpt_flax.data.encodings import advice
from minigpt_flax.data.tokenizers.base import Tokenizer, cut
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import brief

SEPARATOR = "\n\n\n"  # two empty lines, between documents if the tokenizer has no end-of-text token
_BLOCK = 1 << 22  # bytes to read, or characters to encode, at a time
LINE = 1 << 28  # maximum bytes per line of JSONL, which is parsed in memory
NAMES = 20  # maximum number of fields of a record that an error message lists
_SURROGATE = re.compile("[\ud800-\udfff]")
FIELD = "text"
"""Default field of a JSON record that contains the document."""


class Piece(NamedTuple):
    """A piece of a document.

    Attributes:
      text: text that directly follows the previous piece.
      ends: whether the document ends here.
      size: number of bytes of the source.
      replaced: number of lone surrogates of the source that were replaced by U+FFFD in ``text``.
    """

    text: str
    ends: bool
    size: int
    replaced: int = 0


def single_piece(text: str) -> Piece:
    """Return a document as one piece."""
    return Piece(text, True, len(text.encode()))


def read_text(path: Path) -> Iterator[Piece]:
    """Read a UTF-8 text file as one document, unchanged but for a byte order mark; `COMPRESSED` ones too.

    Raises:
      UserError: it is not UTF-8, or contains a NUL byte.
    """
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    with open_bytes(path) as file:
        block = file.read(_BLOCK)
        while True:
            after = file.read(_BLOCK)
            if b"\0" in block:
                raise UserError(
                    f"the file '{path}' is binary, not UTF-8 text (0x00 at byte {done + block.index(0)}); "
                    "give UTF-8 text"
                )
            yield Piece(_decode(path, decoder, block, done, final=not after), not after, len(block))
            if not after:
                return
            done, block = done + len(block), after


def _decode(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, done: int, final: bool) -> str:
    pending = len(decoder.getstate()[0])  # bytes of a character that began in the previous block
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"the file '{path}' is not UTF-8 (0x{error.object[error.start]:02x} at byte "
            f"{done - pending + error.start}); {advice(path, error.object, error.start)}"
        ) from error


def read_jsonl(path: Path, field: str) -> Iterator[Piece]:
    """Read one document per line: the field of a JSON object. Empty lines are skipped.

    Raises:
      UserError: a line is not a JSON object, is longer than `LINE`, lacks the field, or its value is not text; the line
        is named.
    """
    with open_bytes(path) as file:
        number = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise UserError(
                    f"'{path}', line {number}, has more than {LINE:,} bytes; split its document into several"
                )
            if line.strip():
                where = f"'{path}', line {number},"
                yield record_piece(_record(line, where), field, where, len(line))


def _record(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply; fix or remove the line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start:,}); convert the file, or remove the line") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON (at character {error.pos:,}); fix or remove the line") from error
    except ValueError as error:  # a number with thousands of digits
        raise UserError(f"{where} has a number that is too long; fix or remove the line") from error
    if not isinstance(record, dict):
        raise UserError(f'{where} is not a JSON object such as {{"text": "..."}}; fix or remove the line')
    return record


def record_piece(record: Mapping[str, Any], field: str, where: str, size: int | None = None) -> Piece:
    """Return the document in a field of a record.

    JSON can contain half of a surrogate pair, which is not a character and has no UTF-8 encoding: it becomes U+FFFD.

    Args:
      record: record of a JSONL file or of a dataset.
      field: name of the field.
      where: location of the record, for error messages.
      size: number of bytes of the record; None uses those of the text.

    Raises:
      UserError: the field is missing, or its value is not text.
    """
    if field not in record:
        names = [brief(name) for name in itertools.islice(record, NAMES)]
        fields = ", ".join(names) + (", ..." if len(record) > NAMES else "") or "none"
        raise UserError(f"{where} has no field {field!r}; it has: {fields}; name the one with the text: SOURCE#FIELD")
    text, replaced = record[field], 0
    if not isinstance(text, str):
        raise UserError(
            f"{where} has no text in the field {field!r}, but {brief(text)}: fix or remove it, or name another field"
        )
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        text, replaced = _SURROGATE.subn("\ufffd", text)
        encoded = text.encode()
    return Piece(text, True, len(encoded) if size is None else size, replaced)


def replacement_note(count: int) -> str:
    """Report the number of replaced surrogates.

    >>> replacement_note(1), replacement_note(3000)
    ('1 lone surrogate replaced by U+FFFD', '3,000 lone surrogates replaced by U+FFFD')
    """
    return f"{count:,} lone surrogate{'s' if count > 1 else ''} replaced by U+FFFD"


def strip_documents(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Remove leading and trailing newlines from documents; documents without text are dropped."""
    started, newlines = False, ""
    for piece in pieces:
        # Newlines are held back until more text follows, as only then they are not trailing.
        text = newlines + (piece.text if started else piece.text.lstrip("\n"))
        stripped = text.rstrip("\n")
        started, newlines = started or bool(stripped), text[len(stripped) :]
        if piece.ends:
            if started:
                yield piece._replace(text=stripped)
            started, newlines = False, ""
        elif stripped:
            yield piece._replace(text=stripped)


def join_documents(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield the text of all documents, with two empty lines between them; a single document is unchanged."""
    ended, several = False, False
    for piece in pieces:
        if ended:
            yield SEPARATOR
            several = True
        yield piece.text
        ended = piece.ends
    if several:
        yield "\n"


def encode(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[Int32[np.ndarray, " some"]]:
    """Encode documents; each ends with the end-of-text token, or if the tokenizer has none, they are joined as text.

    Args:
      tokenizer: any tokenizer.
      pieces: pieces of the documents, in order.

    Returns:
      The tokens of all documents, in chunks. Chunking does not change them.

    Raises:
      UserError: the tokenizer can't encode the text.
    """
    if tokenizer.eot is None:
        yield from (tokenizer.encode(text) for text in rechunk(pieces))
    else:
        yield from _with_ends(tokenizer, pieces, np.array([tokenizer.eot], np.int32))


def _with_ends(
    tokenizer: Tokenizer, pieces: Iterable[Piece], end: Int32[np.ndarray, " 1"]
) -> Iterator[Int32[np.ndarray, " some"]]:
    """Encode documents in groups, because a tokenizer encodes many texts in parallel."""
    rest, group, size = "", [], 0
    for piece in pieces:
        *ready, rest = cut(rest + piece.text, _BLOCK)
        group += [(text, False) for text in ready]
        size += len(piece.text)
        if piece.ends:
            group.append((rest, True))
            rest = ""
        if size >= _BLOCK:
            yield _group(tokenizer, group, end)
            group, size = [], 0
    if group:
        yield _group(tokenizer, group, end)


def _group(
    tokenizer: Tokenizer, group: list[tuple[str, bool]], end: Int32[np.ndarray, " 1"]
) -> Int32[np.ndarray, " some"]:
    rows = tokenizer.encode_batch([text for text, _ in group])
    return np.concatenate([part for row, (_, ends) in zip(rows, group, strict=True) for part in (row, end[:ends])])


def rechunk(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield the joined text, see `join_documents`, in pieces of similar size, split where no token crosses."""
    parts, size = [], 0
    for text in join_documents(pieces):
        parts.append(text)
        size += len(text)
        if size >= 2 * _BLOCK:
            *ready, rest = cut("".join(parts), _BLOCK)
            yield from ready
            parts, size = [rest], len(rest)
    yield "".join(parts)
