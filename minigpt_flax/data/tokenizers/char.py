"""One token for each character: small vocabulary, long sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.tokenizers.base import Texts, Tokenizer, pieces
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import check_fields

SHOWN = 80  # characters of the vocabulary in a message, at most


class Char(Tokenizer):
    """Numbers the characters in the order of their code points, as nanoGPT does."""

    name = "char"

    def __init__(self, characters: str):
        """Takes the characters, sorted, each once."""
        self._codes = _code_points(characters)
        if not characters or np.any(self._codes[1:] <= self._codes[:-1]):
            raise ValueError("the characters must be sorted, each once, and at least one")
        self.characters = characters
        self.vocab_size = len(characters)

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Returns one id a character.

        Raises:
            UserError: the text has characters that the training text lacked.
        """
        codes = _code_points(text)
        ids = np.searchsorted(self._codes[:-1], codes)  # at most the last id: none out of range
        unknown = np.unique(codes[self._codes[ids] != codes])
        if unknown.size:
            raise UserError(
                f"the char tokenizer lacks {', '.join(repr(chr(code)) for code in unknown[:10])}"
                f"{' and others' if unknown.size > 10 else ''}; it has only the "
                f"{self.vocab_size} characters of its training text: {self._shown()}; "
                "leave out the others, or train with --tokenizer byte, which encodes every text"
            )
        return ids.astype(np.int32)

    def _shown(self) -> str:
        """The characters for a message, the first if they are many."""
        return repr(self.characters[:SHOWN]) + " ..." * (self.vocab_size > SHOWN)

    def decode(self, ids: ArrayLike) -> str:
        """Returns one character an id; a lone surrogate, which older runs may have, becomes U+FFFD."""
        return self._codes[np.asarray(ids, np.int64)].tobytes().decode("utf-32-le", "replace")

    def to_json(self) -> dict[str, Any]:
        """Returns the characters."""
        return {"characters": self.characters}

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Char:
        """Returns the tokenizer of these characters."""
        characters = check_fields(fields, {"name": str, "characters": str}, where)["characters"]
        try:
            return cls(characters)
        except ValueError as error:
            raise UserError(f"{where} is damaged: {error}") from error


def char(text: Texts) -> Char:
    """One token for each character that the text has.

    >>> tokenizer = char("hello")
    >>> tokenizer.characters, tokenizer.encode("hole").tolist()
    ('ehlo', [1, 3, 2, 0])
    """
    return Char("".join(sorted(set().union(*map(set, pieces(text))))))


def _code_points(text: str) -> np.ndarray:
    """The characters as numbers; a lone surrogate too, for `encode` to refuse like any other."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
