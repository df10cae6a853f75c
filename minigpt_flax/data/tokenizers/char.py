"""Character tokenizer: one token per character; a small vocabulary and long sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.tokenizers.base import Texts, Tokenizer, merged, pieces
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import check_fields

SHOWN = 80  # maximum number of characters of the vocabulary in a message


class Char(Tokenizer):
    """Number the characters in the order of their code points, as nanoGPT does."""

    name = "char"

    def __init__(self, characters: str):
        """Create it from characters that are sorted and distinct."""
        self._codes = _code_points(characters)
        if not characters or np.any(self._codes[1:] <= self._codes[:-1]):
            raise ValueError("the characters must be sorted, each once, and at least one")
        self.characters = characters
        self.vocab_size = len(characters)

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return one id per character.

        Raises:
          UserError: the text has characters that are not in the training text.
        """
        codes = _code_points(text)
        ids = np.searchsorted(self._codes[:-1], codes)  # at most the last id, so always in range
        unknown = np.unique(codes[self._codes[ids] != codes])
        if unknown.size:
            raise UserError(
                f"the char tokenizer lacks {', '.join(repr(chr(code)) for code in unknown[:10])}"
                f"{' and others' if unknown.size > 10 else ''}; it has only the "
                f"{self.vocab_size} characters of its training text: {self._shown()}; "
                "remove the other characters, or train with --tokenizer byte, which encodes every text"
            )
        return ids.astype(np.int32)

    def _shown(self) -> str:
        """The characters for a message, truncated if there are many."""
        return repr(self.characters[:SHOWN]) + " ..." * (self.vocab_size > SHOWN)

    def decode(self, ids: ArrayLike) -> str:
        """Return one character per id; a lone surrogate, possible in the vocabulary of an old run, becomes U+FFFD."""
        return self._codes[np.asarray(ids, np.int64)].tobytes().decode("utf-32-le", "replace")

    def to_json(self) -> dict[str, Any]:
        """Return the characters."""
        return {"characters": self.characters}

    def hugging_face(self) -> dict[str, Any]:
        """Return it as BPE without merges; there, unknown characters are left out."""
        return merged(dict(zip(self.characters, range(self.vocab_size), strict=True)), None, {"type": "Fuse"})

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Char:
        """Restore the tokenizer with these characters."""
        characters = check_fields(fields, {"name": str, "characters": str}, where)["characters"]
        try:
            return cls(characters)
        except ValueError as error:
            raise UserError(f"{where} is damaged: {error}") from error


def char(text: Texts) -> Char:
    """One token per character of the text.

    >>> tokenizer = char("hello")
    >>> tokenizer.characters, tokenizer.encode("hole").tolist()
    ('ehlo', [1, 3, 2, 0])
    """
    return Char("".join(sorted(set().union(*map(set, pieces(text))))))


def _code_points(text: str) -> np.ndarray:
    """Return the characters as code points, including lone surrogates, which `encode` refuses as unknown characters."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
