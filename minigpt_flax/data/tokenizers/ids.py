"""Tokenizer for data that consists of tokens, without the tokenizer that made them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.token_files import Tokens
from minigpt_flax.data.tokenizers.base import Tokenizer
from minigpt_flax.data.tokenizers.components import TOKENS
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import brief, check_fields, check_range

_CHUNK = 1 << 22  # tokens processed at a time
DIGITS = 10  # maximum number of digits of a typed token id


class Ids(Tokenizer):
    """Text consists of ids as decimal numbers, so that a model of such data can generate too."""

    name = "ids"

    def __init__(self, vocab_size: int, eot: int | None = None):
        """Create it for a number of tokens, at least 1, and the end-of-text token, if known."""
        check_range(vocab_size, 1, TOKENS, "the number of tokens")
        if eot is not None:
            check_range(eot, 0, vocab_size - 1, "the end-of-text token")
        self.vocab_size, self._eot = vocab_size, eot

    @property
    def eot(self) -> int | None:
        """The end-of-text token, if the source of the tokens names one."""
        return self._eot

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the ids of, for example, ``"12 5 9"``.

        Raises:
          UserError: a word is not a number, or is out of range.
        """
        words = text.split()
        for word in words:
            if not word.isdecimal() or len(word) > DIGITS or int(word) >= self.vocab_size:
                raise UserError(
                    f"{brief(word)} is not a token: the data of this run consists of tokens, so give numbers "
                    f"from 0 to {self.vocab_size - 1}, such as '0 1 2'"
                )
        return np.array([int(word) for word in words], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Return, for example, ``"12 5 9"``."""
        return " ".join(str(i) for i in np.asarray(ids).tolist())

    def to_json(self) -> dict[str, Any]:
        """Return the number of tokens and the end-of-text token."""
        return {"vocab_size": self.vocab_size, "eot": self._eot}

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Ids:
        """Restore the tokenizer."""
        kinds = {"name": str, "vocab_size": int, "eot": int | None}
        found = check_fields(fields, kinds, where, optional=("eot",))
        try:
            return cls(found["vocab_size"], found.get("eot"))
        except UserError as error:
            raise UserError(f"{where} is damaged: {error}") from error


def ids(tokens: Tokens) -> Ids:
    """One number per token, up to the largest token of the data.

    >>> tokenizer = ids(np.array([3, 1, 4]))
    >>> tokenizer.vocab_size, tokenizer.decode([3, 1, 4])
    (5, '3 1 4')
    """
    return Ids(max(int(np.max(tokens[i : i + _CHUNK])) for i in range(0, len(tokens), _CHUNK)) + 1)
