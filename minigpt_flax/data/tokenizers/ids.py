"""The stand-in for data that came as tokens, without the tokenizer that made them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int32, Integer
from numpy.typing import ArrayLike

from minigpt_flax.data.measures import token_counts
from minigpt_flax.data.tokenizers.base import Tokenizer
from minigpt_flax.errors import UserError


class Ids(Tokenizer):
    """A text is its ids as decimal numbers, so that such a run can be sampled from all the same."""

    name = "ids"

    def __init__(self, vocab_size: int):
        """Takes the number of tokens, at least 1."""
        if not isinstance(vocab_size, int) or vocab_size < 1:
            raise ValueError(f"vocab_size must be a positive integer, not {vocab_size!r}")
        self.vocab_size = vocab_size

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Returns the numbers in, for example, ``"12 5 9"``.

        Raises:
            UserError: a word is no number, or no token has it.
        """
        words = text.split()
        for word in words:
            if not word.isdecimal() or int(word) >= self.vocab_size:
                raise UserError(
                    f"{word!r} is no token: the data of this run came as tokens, so give numbers "
                    f"from 0 to {self.vocab_size - 1}, such as '0 1 2'"
                )
        return np.array([int(word) for word in words], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Returns, for example, ``"12 5 9"``."""
        return " ".join(str(i) for i in np.asarray(ids).tolist())

    def to_json(self) -> dict[str, Any]:
        """Returns the number of tokens."""
        return {"vocab_size": self.vocab_size}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Ids:
        """Returns the stand-in for that many tokens."""
        return cls(fields["vocab_size"])


def ids(tokens: Integer[np.ndarray, " tokens"]) -> Ids:
    """Numbers instead of text: one for each token up to the largest in the data.

    >>> tokenizer = ids(np.array([3, 1, 4]))
    >>> tokenizer.vocab_size, tokenizer.decode([3, 1, 4])
    (5, '3 1 4')
    """
    return Ids(token_counts(tokens).size)
