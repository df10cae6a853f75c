"""Tokens in files: one array out of several, memory-mapped; the two ``.bin`` formats; a fingerprint of large files.

Nothing here loads a file: what is read is what is asked for, and checked against the vocabulary then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from minigpt_flax.errors import UserError

HEADER = 256  # int32 at the beginning of llm.c's files
BLOCK = 1 << 20  # bytes of a file that its fingerprint takes at a time
BLOCKS = 64  # of a file


@dataclass(frozen=True)
class Format:
    """What llm.c's header says of the tokens behind it.

    Attributes:
        version: the only one that is known.
        dtype: of a token.
        vocab_size: number of tokens of the tokenizer that made them.
        eot: the one that ends a document.
    """

    version: int
    dtype: str
    vocab_size: int
    eot: int


FORMATS = {20240520: Format(1, "<u2", 50257, 50256), 20240801: Format(7, "<u4", 128256, 128001)}
"""By llm.c's magic number: tokens of GPT-2 and of Llama 3 (``dev/data/data_common.py``)."""


class TokenFiles:
    """Arrays one after another that are read as one: ``tokens[positions]``, ``tokens[start:stop]``, ``len(tokens)``.

    A slice is a view and reads nothing; ``np.asarray(tokens)`` reads everything.

    >>> tokens = TokenFiles([np.array([3, 1]), np.array([4, 1, 5])], "pi")
    >>> len(tokens), tokens[np.array([[0, 4], [2, 2]])].tolist(), np.asarray(tokens[1:4]).tolist()
    (5, [[3, 5], [4, 4]], [1, 4, 1])
    """

    def __init__(self, parts: Sequence[np.ndarray], name: str, vocab_size: int | None = None):
        """Takes the arrays.

        Args:
            parts: one-dimensional, of one dtype, memory-mapped where large; at least one.
            name: of the source, for errors.
            vocab_size: number of tokens that there are; None believes what it reads.
        """
        self.name, self.vocab_size = name, vocab_size
        self.dtype = parts[0].dtype
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """Returns a view for a slice of step 1; for an array of positions, from 0, the tokens there.

        Raises:
            UserError: a token lies outside the vocabulary.
        """
        if isinstance(index, slice):
            return self._view(*index.indices(len(self))[:2])
        places = np.searchsorted(self._ends, index, side="right")
        found = np.empty(np.shape(index), self.dtype)
        for place in np.unique(places):
            here = places == place
            part = self._parts[place]
            found[here] = part[index[here] - (self._ends[place] - len(part))]
        return self._checked(found)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns all of them, in memory."""
        found = self._checked(np.concatenate(self._parts))
        return found if dtype is None else found.astype(dtype)

    @staticmethod
    def joined(several: Sequence[TokenFiles]) -> TokenFiles:
        """Returns those of several, one after another."""
        first = several[0]
        return TokenFiles([part for one in several for part in one._parts], first.name, first.vocab_size)

    def within(self, vocab_size: int) -> TokenFiles:
        """Returns the same tokens, checked against a vocabulary whenever they are read."""
        return TokenFiles(self._parts, self.name, vocab_size)

    def _view(self, start: int, stop: int) -> TokenFiles:
        starts = self._ends - [len(part) for part in self._parts]
        bounds = [(max(start - at, 0), max(stop - at, 0)) for at in starts.tolist()]
        parts = [part[a:b] for part, (a, b) in zip(self._parts, bounds, strict=True)]
        return TokenFiles([part for part in parts if len(part)] or parts[:1], self.name, self.vocab_size)

    def _checked(self, found: np.ndarray) -> np.ndarray:
        largest = int(found.max(initial=0))
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise UserError(
                f"{self.name!r} has the token {largest}, but the tokenizer only {self.vocab_size} "
                f"(0 to {self.vocab_size - 1}): it was made with another tokenizer, or is damaged"
            )
        return found


Tokens = Integer[np.ndarray, "_"] | TokenFiles
"""Tokens in memory or in files."""


def read_bin(path: Path) -> tuple[np.memmap, Format | None]:
    """Maps a ``.bin`` file: llm.c's, told by the magic number of its header, or else nanoGPT's, which has none.

    Args:
        path: of the file. Header: 256 little-endian int32, first magic, version and number of tokens.
            Without one: uint16 tokens and nothing else.

    Returns:
        The tokens, memory-mapped and read-only; the format, None for nanoGPT's.

    Raises:
        UserError: it is empty, cut short, of an unknown version, or has the header of something else.
    """
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"the file '{path}' is empty; prepare it again")
    head = np.fromfile(path, "<i4", min(HEADER, size // 4))
    if len(head) == HEADER and int(head[0]) in FORMATS:
        return _with_header(path, size, head)
    if len(head) == HEADER and int(head[2]) > 0 and not head[3:].any():
        known = " or ".join(map(str, FORMATS))
        raise UserError(
            f"the file '{path}' has a header with the magic number {head[0]}; tokens of llm.c have {known}: "
            "it is something else, or damaged"
        )
    if size % 2:
        raise UserError(
            f"the file '{path}' has {size} bytes, an odd number, so it is not a whole number of uint16 tokens; "
            "it is cut short or no nanoGPT .bin file: prepare it again"
        )
    return np.memmap(path, "<u2", "r"), None


def _with_header(path: Path, size: int, head: np.ndarray) -> tuple[np.memmap, Format]:
    magic, version, count = (int(number) for number in head[:3])
    form = FORMATS[magic]
    if version != form.version:
        raise UserError(f"the file '{path}' is of version {version} of llm.c's format; only {form.version} is known")
    expected = head.nbytes + count * np.dtype(form.dtype).itemsize
    if size != expected or count < 1:
        raise UserError(
            f"the file '{path}' has {size} bytes, but its header says {count} tokens, which take {expected}; "
            "it is cut short or damaged: bring it here again"
        )
    return np.memmap(path, form.dtype, "r", offset=head.nbytes), form


def fingerprint(path: Path) -> str:
    """Returns a SHA-256 of a file's length and content, in hexadecimal, in less than a second whatever the length.

    Up to 64 MiB the content is the whole; of a longer file it is 64 blocks of 1 MiB, evenly spaced from its first to
    its last byte: a file that was cut, extended or made anew is seen, a few bytes changed in between are not.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= BLOCK * BLOCKS:
            digest.update(file.read())
        else:
            for start in np.linspace(0, size - BLOCK, BLOCKS).astype(np.int64).tolist():
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
