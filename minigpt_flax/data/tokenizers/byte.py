"""Byte tokenizer: one token for each of the 256 bytes; encodes every text, without training."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.tokenizers.base import Texts, Tokenizer, merged, utf8, visible
from minigpt_flax.runs.schema import check_fields


class Byte(Tokenizer):
    """The ids are the bytes of the text in UTF-8."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return one id per byte."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of these bytes."""
        return bytes(np.asarray(ids).tolist()).decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        """Return an empty dict: there is no state."""
        return {}

    def hugging_face(self) -> dict[str, Any]:
        """Return it as byte-level BPE without merges."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return merged({visible(bytes([byte])): byte for byte in range(256)}, level, level)

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Byte:
        """Return the byte tokenizer."""
        check_fields(fields, {"name": str}, where)
        return cls()


def byte(text: Texts) -> Byte:
    """One token per byte of UTF-8, for any text.

    >>> byte("").encode("é").tolist()
    [195, 169]
    """
    return Byte()
