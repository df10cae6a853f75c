"""Token files: several memory-mapped arrays as one; the two ``.bin`` formats; fingerprints of large files.

No function loads a whole file: tokens are read on access, and then checked against the vocabulary.
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

HEADER = 256  # number of int32 in the header of llm.c's files
BLOCK = 1 << 20  # bytes per block of a fingerprint
BLOCKS = 64  # blocks per fingerprint
HEADERLESS = {"uint16": "<u2", "uint32": "<u4"}
"""Dtypes of tokens in files without a header; nanoGPT's are uint16."""
FOREIGN = {  # first bytes of files that are often called .bin
    b"PK\x03\x04": "a zip archive, such as the weights of torch.save",
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P": "the weights of an old torch.save",
    b"GGUF": "the weights of llama.cpp",
    b"ggml": "the weights of llama.cpp",
    b"\x7fELF": "a program",
    b"\x89PNG\r\n": "a picture",
}
EXAMINED = 1 << 16  # pairs of uint16 that are examined for being uint32
SMALL = 16  # upper halves of uint32 tokens are below it: no vocabulary has 2**20 tokens


@dataclass(frozen=True)
class Format:
    """Format of llm.c's token files, identified by the magic number in their header.

    Attributes:
      version: the supported version.
      dtype: dtype of a token.
      vocab_size: vocabulary size of the tokenizer.
      eot: the end-of-text token.
    """

    version: int
    dtype: str
    vocab_size: int
    eot: int


FORMATS = {20240520: Format(1, "<u2", 50257, 50256), 20240801: Format(7, "<u4", 128256, 128001)}
"""Formats by magic number: tokens of GPT-2 and of Llama 3 (``dev/data/data_common.py`` in llm.c)."""


class TokenFiles:
    """Concatenation of arrays that is read on access: ``tokens[positions]``, ``tokens[start:stop]``, ``len(tokens)``.

    A slice is a view and reads nothing; ``np.asarray(tokens)`` reads everything.

    >>> tokens = TokenFiles([np.array([3, 1]), np.array([4, 1, 5])], "pi")
    >>> len(tokens), tokens[np.array([[0, 4], [2, 2]])].tolist(), np.asarray(tokens[1:4]).tolist()
    (5, [[3, 5], [4, 4]], [1, 4, 1])
    """

    def __init__(self, parts: Sequence[np.ndarray], name: str, vocab_size: int | None = None):
        """Concatenate arrays.

        Args:
          parts: one-dimensional arrays of one dtype, memory-mapped if large; at least one.
          name: name of the source, for error messages.
          vocab_size: vocabulary size that tokens are checked against; None checks nothing.
        """
        self.name, self.vocab_size = name, vocab_size
        self.dtype = parts[0].dtype
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """Return a view for a slice of step 1, or the tokens at an array of positions, which start at 0.

        Raises:
          UserError: a token is outside the vocabulary.
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
        """Return all tokens, in memory."""
        found = self._checked(np.concatenate(self._parts))
        return found if dtype is None else found.astype(dtype)

    @staticmethod
    def concatenate(several: Sequence[TokenFiles]) -> TokenFiles:
        """Return the tokens of several, in order."""
        first = several[0]
        return TokenFiles([part for one in several for part in one._parts], first.name, first.vocab_size)

    def with_vocab_size(self, vocab_size: int) -> TokenFiles:
        """Return the same tokens, checked against a vocabulary size whenever they are read."""
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
                f"{self.name!r} contains the token {largest}, but the tokenizer has only {self.vocab_size} "
                f"(0 to {self.vocab_size - 1}): the file was made with another tokenizer, or is damaged"
            )
        return found


Tokens = Integer[np.ndarray, "_"] | TokenFiles
"""Tokens in memory or in files."""


def has_header(path: Path) -> bool:
    """Return whether a file has the header of one of `FORMATS`."""
    head = np.fromfile(path, "<i4", HEADER)
    return len(head) == HEADER and int(head[0]) in FORMATS


def read_bin(path: Path, dtype: str | None = None) -> tuple[np.memmap, Format | None]:
    """Memory-map a ``.bin`` file of llm.c, which has a magic number in its header, or of nanoGPT, which has no header.

    Args:
      path: path of the file. The header is 256 little-endian int32: magic number, version, number of tokens, zeros.
        Without a header the file consists of tokens only.
      dtype: dtype of a file without a header, in `HEADERLESS`; None means uint16, unless the file contradicts that.

    Returns:
      The tokens, memory-mapped and read-only; the format, None for nanoGPT's.

    Raises:
      UserError: the file is empty, truncated, of an unknown version, or has an unknown header.
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
            f"the file '{path}' has a header with the magic number {head[0]}, but token files of llm.c have {known}: "
            "it is of another kind, or damaged"
        )
    with path.open("rb") as file:
        start = file.read(max(map(len, FOREIGN)))
    if (kind := next((kind for magic, kind in FOREIGN.items() if start.startswith(magic)), None)) is not None:
        raise UserError(f"the file '{path}' is {kind}, not tokens: give a file of tokens, or of text")
    item = np.dtype(HEADERLESS[dtype or "uint16"])
    if dtype is None and _looks_like_uint32(path, size):
        raise UserError(
            f"the file '{path}' looks like uint32 tokens without a header, but nanoGPT's are uint16: give "
            f"--data '{path}#uint32' (or '#uint16', if they are)"
        )
    if size % item.itemsize:
        raise UserError(
            f"the file '{path}' has {size} bytes, which is not a whole number of {item.name} tokens; it is truncated, "
            "or not a nanoGPT .bin file: prepare it again"
        )
    return np.memmap(path, item, "r"), None


def _looks_like_uint32(path: Path, size: int) -> bool:
    """Return whether every second uint16 is far too small for a token, as the upper half of a uint32 is."""
    halves = np.fromfile(path, "<u2", 2 * EXAMINED)[: size // 4 * 2].reshape(-1, 2)
    if size % 4 or len(halves) < SMALL:
        return False
    low, high = halves.max(axis=0)
    return bool(high < SMALL <= low or high == 0 < low)


def _with_header(path: Path, size: int, head: np.ndarray) -> tuple[np.memmap, Format]:
    magic, version, count = (int(number) for number in head[:3])
    form = FORMATS[magic]
    if version != form.version:
        raise UserError(f"the file '{path}' has version {version} of llm.c's format; only {form.version} is supported")
    expected = head.nbytes + count * np.dtype(form.dtype).itemsize
    if size != expected or count < 1:
        raise UserError(
            f"the file '{path}' has {size} bytes, but the {count} tokens of its header need {expected}; "
            "it is truncated or damaged: copy or prepare it again"
        )
    return np.memmap(path, form.dtype, "r", offset=head.nbytes), form


def fingerprint(path: Path) -> str:
    """Return a hexadecimal SHA-256 of a file's size and content, in less than a second for any size.

    Up to 64 MiB it covers the whole content; of a larger file it covers 64 evenly spaced blocks of 1 MiB, including the
    first and the last. It detects a file that was truncated, extended or regenerated, but not small edits between
    blocks.
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
