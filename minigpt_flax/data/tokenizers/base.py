"""What every tokenizer can do, and how it is kept in the folder of a run."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.errors import UserError
from minigpt_flax.runs.files import replace

FILE = "tokenizer.json"
LIMIT = 1 << 27  # bytes of that file, at most; Gemma's, the largest known, has 33 MB
_BORDER = re.compile(r"(?<=\S)(?=[ \n]\S)")

Texts = str | Iterable[str]
"""What a tokenizer learns from: a text, or its pieces in order, which may be more than memory holds."""


class Tokenizer(ABC):
    """Text to ids and back.

    Attributes:
        name: its word on the command line, and in its file.
        vocab_size: number of tokens; ids run from 0 to ``vocab_size - 1``.
    """

    name: ClassVar[str]
    vocab_size: int

    @property
    def eot(self) -> int | None:
        """The token that ends a document (end of text); None where the vocabulary has none."""
        return None

    @abstractmethod
    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Returns the ids of `text`; raises `UserError` for text that it cannot encode."""

    def encode_batch(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " tokens"]]:
        """Returns the ids of each text."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """Returns the text of a row of ids; bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Returns what was learned, as values that JSON has."""

    @classmethod
    @abstractmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Tokenizer:
        """Returns the tokenizer whose `to_json` gave `fields`.

        Args:
            fields: checked for nothing but their ``name``.
            where: what holds them, for errors.

        Raises:
            UserError: a field is missing, unknown or wrong.
        """

    def hugging_face(self) -> str | None:
        """Returns the same tokenizer as the JSON of Hugging Face's `tokenizers`; None where it has no such thing."""
        return None

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` into `folder`: all that `load_tokenizer` needs."""
        replace(folder / FILE, json.dumps({"name": self.name, **self.to_json()}, indent=1) + "\n")


def utf8(text: str) -> bytes:
    """Returns the text as UTF-8.

    Raises:
        UserError: it holds a lone surrogate, which is how Python passes on the bytes of an argument
            that was not UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has {text[error.start]!r} at character {error.start}, which is no character "
            "(the input was not UTF-8); give UTF-8 text"
        ) from error


def pieces(texts: Texts) -> Iterable[str]:
    """Returns the pieces of what a tokenizer learns from."""
    return [texts] if isinstance(texts, str) else texts


def cut(text: str, size: int) -> Iterator[str]:
    r"""Cuts into pieces of `size` and a little more, where no token crosses; at least one.

    Before a single space or line end between two visible characters a word begins in GPT-2's pattern, so the pieces
    encode to what the whole text encodes to, in parallel and without its memory.

    >>> list(cut("one two\nthree", 4))
    ['one two', '\nthree']
    """
    start = 0
    while border := _BORDER.search(text, start + size):
        yield text[start : border.start()]
        start = border.start()
    yield text[start:]
