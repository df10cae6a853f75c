"""Interface of the tokenizers, and their file in a run's folder."""

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
END = "<|endoftext|>"  # GPT-2's name of the end-of-text token
LIMIT = 1 << 27  # maximum size of that file in bytes; Gemma's, the largest known, has 33 MB
_BOUNDARY = re.compile(r"(?<=\S)(?=[ \n]\S)")

Texts = str | Iterable[str]
"""Training text of a tokenizer: a string, or its pieces in order, which may be larger than memory."""


class Tokenizer(ABC):
    """Convert text to token ids and back.

    Attributes:
      name: name on the command line and in the file.
      vocab_size: number of tokens; ids run from 0 to ``vocab_size - 1``.
    """

    name: ClassVar[str]
    vocab_size: int

    @property
    def eot(self) -> int | None:
        """The end-of-text token, which ends a document; None if the vocabulary has none."""
        return None

    @property
    def special_tokens(self) -> dict[str, int]:
        """Tokens that no text encodes to, by their name in a prompt."""
        return {} if self.eot is None else {END: self.eot}

    @abstractmethod
    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the ids of `text`; raises `UserError` for text that it can't encode."""

    def encode_batch(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " tokens"]]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """Return the text of a sequence of ids; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer's state as JSON values."""

    @classmethod
    @abstractmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Tokenizer:
        """Restore a tokenizer from the result of `to_json`.

        Args:
          fields: only ``name`` has been checked.
          where: location of the fields, for error messages.

        Raises:
          UserError: a field is missing, unknown or invalid.
        """

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the tokenizer, one line each."""
        return ()

    @property
    def roles(self) -> dict[str, str]:
        """The special tokens by role, such as ``eos_token``, as transformers names them."""
        return {}

    def hugging_face(self) -> dict[str, Any] | None:
        """Return the tokenizer as Hugging Face's ``tokenizer.json`` has it; None if it has no such form."""
        return None

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` into `folder`, for `load_tokenizer`."""
        replace(folder / FILE, json.dumps({"name": self.name, **self.to_json()}, indent=1) + "\n")


def utf8(text: str) -> bytes:
    """Encode the text as UTF-8.

    Raises:
      UserError: it contains a lone surrogate, which is how Python represents bytes of an argument that are not UTF-8.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text has {text[error.start]!r} at position {error.start}, which is not a character "
            "(the input was not UTF-8); give UTF-8 text"
        ) from error


def pieces(texts: Texts) -> Iterable[str]:
    """Return the pieces of a training text."""
    return [texts] if isinstance(texts, str) else texts


def cut(text: str, size: int) -> Iterator[str]:
    r"""Split a text into pieces of `size` characters and a little more, where no token crosses; at least one piece.

    In GPT-2's pattern, a word starts before a single space or newline between two visible characters. The pieces
    therefore encode to the tokens of the whole text, in parallel and with less memory.

    >>> list(cut("one two\nthree", 4))
    ['one two', '\nthree']
    """
    start = 0
    while boundary := _BOUNDARY.search(text, start + size):
        yield text[start : boundary.start()]
        start = boundary.start()
    yield text[start:]


def merged(vocab: dict[str, int], pre_tokenizer: dict[str, Any] | None, decoder: dict[str, Any]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` of Hugging Face's format: BPE without merges, so that every symbol is a token."""
    names = ("truncation", "padding", "normalizer", "post_processor")
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    parts = {"added_tokens": [], "pre_tokenizer": pre_tokenizer, "decoder": decoder, "model": model}
    return {"version": "1.0", **dict.fromkeys(names), **parts}


def visible(token: bytes) -> str:
    """Write bytes as GPT-2 does: a visible character for each, itself if it is printable, else from U+0100 on.

    >>> visible(b"a b")
    'aĠb'
    """
    return "".join(_VISIBLE[byte] for byte in token)


_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_VISIBLE = {byte: chr(byte) for byte in _PRINTABLE}
_VISIBLE |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in _PRINTABLE)}
