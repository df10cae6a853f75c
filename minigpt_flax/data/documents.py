"""Documents as a stream: text files and JSONL read piece by piece, and the one place that joins documents.

A source may be larger than memory, so nothing here holds more than a few megabytes of it.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from minigpt_flax.data.tokenizers.base import Tokenizer, cut
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief

SEPARATOR = "\n\n\n"  # between documents where the tokenizer has no token for it: two empty lines
_BLOCK = 1 << 22  # bytes read at a time, and characters encoded at a time
LINE = 1 << 28  # bytes of one line of JSONL, at most; it is parsed in memory
NAMES = 20  # fields of a record that an error lists, at most
_SURROGATE = re.compile("[\ud800-\udfff]")
FIELD = "text"
"""The field of a JSON record that holds its document, if no other is named."""


class Piece(NamedTuple):
    """Text of a document, which may have several pieces.

    Attributes:
        text: comes right after the piece before.
        ends: the document ends here.
        size: bytes of the source that it was read from.
        replaced: lone surrogates of the source that became U+FFFD in ``text``.
    """

    text: str
    ends: bool
    size: int
    replaced: int = 0


def whole(text: str) -> Piece:
    """Returns a document of one piece."""
    return Piece(text, True, len(text.encode()))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Around the reading of a file, which may fail in its middle."""
    try:
        yield
    except OSError as error:
        raise UserError(f"can't read {show(path)}: {error.strerror}") from error


def read_text(path: Path) -> Iterator[Piece]:
    """One document, byte for byte: a UTF-8 text file.

    Raises:
        UserError: it is not UTF-8, or has a NUL, which no text has.
    """
    decoder, done = codecs.getincrementaldecoder("utf-8")(), 0
    with _naming(path), path.open("rb") as file:
        block = file.read(_BLOCK)
        while True:
            after = file.read(_BLOCK)
            if b"\0" in block:
                raise UserError(
                    f"the file '{path}' is binary or UTF-16, not UTF-8 text (byte 0x00 at byte "
                    f"{done + block.index(0)}); give UTF-8 text"
                )
            yield Piece(_decode(path, decoder, block, done, final=not after), not after, len(block))
            if not after:
                return
            done, block = done + len(block), after


def _decode(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, done: int, final: bool) -> str:
    waiting = len(decoder.getstate()[0])  # bytes of a character that the block before began
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"the file '{path}' is not UTF-8 (byte 0x{error.object[error.start]:02x} at byte "
            f"{done - waiting + error.start}); convert it first, perhaps with iconv -f latin1 -t utf-8"
        ) from error


def read_jsonl(path: Path, field: str) -> Iterator[Piece]:
    """A document a line: the field of a JSON object. Empty lines count for nothing.

    Raises:
        UserError: a line is no JSON object, is longer than `LINE`, lacks the field, or has something else than text in
            it; names the line.
    """
    with _naming(path), path.open("rb") as file:
        number = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise UserError(f"'{path}', line {number}, has more than {LINE:,} bytes; cut its document into several")
            if line.strip():
                where = f"'{path}', line {number},"
                yield record_piece(_record(line, where), field, where, len(line))


def _record(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply; mend or remove the line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start:,}); convert the file, or remove the line") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON (at character {error.pos:,}); mend or remove the line") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{where} has a number that is too long; mend or remove the line") from error
    if not isinstance(record, dict):
        raise UserError(f'{where} is no JSON object such as {{"text": "..."}}; mend or remove the line')
    return record


def record_piece(record: Mapping[str, Any], field: str, where: str, size: int | None = None) -> Piece:
    """Returns the document in a field of a record.

    JSON can hold half of a surrogate pair, which is no character and has no UTF-8: it becomes U+FFFD.

    Args:
        record: of JSON, or of a dataset.
        field: its name.
        where: the record comes from, for errors.
        size: bytes that it was read from; None takes those of the text.

    Raises:
        UserError: the field is missing, or holds no text.
    """
    if field not in record:
        names = [brief(name) for name in itertools.islice(record, NAMES)]
        there = ", ".join(names) + (", ..." if len(record) > NAMES else "") or "none"
        raise UserError(f"{where} has no field {field!r}; it has: {there}; name the one with the text: SOURCE#FIELD")
    text, replaced = record[field], 0
    if not isinstance(text, str):
        raise UserError(f"{where} has no text in the field {field!r}: {brief(text)}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        text, replaced = _SURROGATE.subn("\ufffd", text)
        encoded = text.encode()
    return Piece(text, True, len(encoded) if size is None else size, replaced)


def replacements(count: int) -> str:
    """How a command says that surrogates were replaced.

    >>> replacements(1), replacements(3000)
    ('1 lone surrogate replaced by U+FFFD', '3,000 lone surrogates replaced by U+FFFD')
    """
    return f"{count:,} lone surrogate{'s' if count > 1 else ''} replaced by U+FFFD"


def stripped(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same documents without the empty lines at their ends; one without text is left out."""
    begun, held = False, None
    for piece in pieces:
        text = piece.text if begun else piece.text.lstrip("\n")
        if held is not None:  # a line end is only known not to be the last when text follows
            text = held + text
        kept = text.rstrip("\n")
        begun, held = begun or bool(kept), text[len(kept) :]
        if piece.ends:
            if begun:
                yield piece._replace(text=kept)
            begun, held = False, None
        elif kept:
            yield piece._replace(text=kept)


def joined(pieces: Iterable[Piece]) -> Iterator[str]:
    """The text of all documents, two empty lines apart; a single document as it is."""
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
    """Encodes documents: each ends with the token for it, or they are joined as text where there is none.

    Args:
        tokenizer: any.
        pieces: of the documents, in order.

    Returns:
        The tokens of all documents, some at a time. They are those of the documents encoded whole.

    Raises:
        UserError: the tokenizer cannot encode the text.
    """
    if tokenizer.eot is None:
        yield from (tokenizer.encode(text) for text in running(pieces))
    else:
        yield from _with_ends(tokenizer, pieces, np.array([tokenizer.eot], np.int32))


def _with_ends(
    tokenizer: Tokenizer, pieces: Iterable[Piece], end: Int32[np.ndarray, " 1"]
) -> Iterator[Int32[np.ndarray, " some"]]:
    """Documents in groups, as a tokenizer works on many texts at once."""
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


def running(pieces: Iterable[Piece]) -> Iterator[str]:
    """The text of all documents, see `joined`, in pieces of about one size, cut where no token crosses."""
    parts, size = [], 0
    for text in joined(pieces):
        parts.append(text)
        size += len(text)
        if size >= 2 * _BLOCK:
            *ready, rest = cut("".join(parts), _BLOCK)
            yield from ready
            parts, size = [rest], len(rest)
    yield "".join(parts)
