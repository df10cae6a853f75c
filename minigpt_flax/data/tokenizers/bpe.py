"""Byte-level byte-pair encoding: bytes, and the most frequent merges of them.

Sennrich, Haddow, Birch 2016 (arXiv:1508.07909), on bytes and with the word pattern of GPT-2.
Hugging Face's `tokenizers` does the work, and is imported only when this is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.tokenizers.base import LIMIT, Texts, Tokenizer, cut, pieces, utf8
from minigpt_flax.data.tokenizers.components import CHARACTERS, TOKENS, check_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief, check_fields, check_range, check_type, read_json

_GROUP = 1 << 22  # characters encoded at once: bounds the memory, about 50 bytes each
_PIECE = 1 << 16  # characters a thread takes at a time
MOST = 1 << 18  # tokens that `bpe` learns, at most: a merge costs time, and a token a row of the embedding
END = "<|endoftext|>"  # GPT-2's name for it


class Bpe(Tokenizer):
    """Merges learned from one text; encodes every text."""

    name = "bpe"

    def __init__(self, model: dict[str, Any], where: str = "the tokenizer"):
        """Takes a tokenizer as Hugging Face's `tokenizers` writes it.

        Args:
            model: the content of a ``tokenizer.json``.
            where: what holds it, for errors.

        Raises:
            UserError: it is damaged, or has a component that isn't allowed.
        """
        self._model = model
        checked = json.dumps(check_tokenizer(model, where))
        with native(f"{where} is damaged"):
            self._inner = hugging_face().Tokenizer.from_str(checked)
            self.vocab_size = max(self._inner.get_vocab().values()) + 1
        check_range(self.vocab_size, 1, TOKENS, f"{where}: the number of tokens")
        for token in model.get("added_tokens", ()):
            self._check_added(token, f"{where}: the added token {brief(token['content'])}")

    def _check_added(self, token: dict[str, Any], where: str) -> None:
        if self._inner.token_to_id(token["content"]) != token["id"]:
            raise UserError(f"{where} has another id than its place")
        if token.get("normalized", True) and self._inner.normalizer is not None:
            with native(f"{where} can't be normalized"):
                text = self._inner.normalizer.normalize_str(token["content"])
            if not text:  # the library would find it everywhere, inside of characters too
                raise UserError(f"{where} is empty after the normalizer")

    @property
    def eot(self) -> int | None:
        """The token ``<|endoftext|>``, which no text encodes to; None if it was not asked for."""
        return self._inner.token_to_id(END)

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Returns the ids of the merged pieces."""
        return np.concatenate([self.encode_batch([group])[0] for group in cut(text, _GROUP)])

    def encode_batch(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " tokens"]]:
        """Returns the ids of each text; all at once, on all cores."""
        rows = [list(cut(utf8(text).decode(), _PIECE)) for text in texts]
        with native("the tokenizer can't encode the text"):
            encodings = iter(self._inner.encode_batch_fast([piece for row in rows for piece in row]))
        return [np.concatenate([np.array(next(encodings).ids, np.int32) for _ in row]) for row in rows]

    def decode(self, ids: ArrayLike) -> str:
        """Returns the text of these pieces."""
        with native("the tokenizer can't decode these tokens"):
            return self._inner.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabulary and the merges, as Hugging Face writes them."""
        return {"model": self._model}

    def hugging_face(self) -> str:
        """Returns its own JSON."""
        return json.dumps(self._model, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Bpe:
        """Returns the tokenizer with these merges."""
        return cls(check_fields(fields, {"name": str, "model": dict}, where)["model"], where)


def read_hugging_face(path: Path) -> Bpe:
    """Reads a ``tokenizer.json`` of Hugging Face's.

    Raises:
        UserError: it can't be read, is damaged, or has a component that isn't allowed.
    """
    return Bpe(read_json(path, LIMIT), show(path))


@contextmanager
def native(failure: str) -> Iterator[None]:
    """Turns what `tokenizers` raises into a `UserError`: bare exceptions, and panics, which are no `Exception`."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{failure}: {' '.join(str(error).split()):.200}") from error


def byte_level(model: Any) -> Any:
    """Returns a `tokenizers.Tokenizer` that applies these merges to bytes, word by word as GPT-2 does."""
    hf = hugging_face()
    inner = hf.Tokenizer(model)
    inner.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = hf.decoders.ByteLevel()
    return inner


def bpe(text: Texts, *, vocab_size: int = 1024, eot: bool = False) -> Bpe:
    """Byte-level BPE, trained on the text: encodes every text, sequences 2 to 4 times shorter.

    Args:
        text: what to learn the merges from.
        vocab_size: number of tokens, at least 256: the bytes, then one token a merge. A short text
            runs out of pairs to merge; `Bpe.vocab_size` says how many tokens there are.
        eot: make the last of them ``<|endoftext|>``, the token between documents.

    Returns:
        The tokenizer.

    Raises:
        UserError: `vocab_size` is below 256 or above `MOST`, or the package `tokenizers` is missing.
    """
    check_type(vocab_size, int, "bpe: vocab_size")
    check_type(eot, bool, "bpe: eot")
    least = 256 + eot
    if vocab_size > MOST:
        raise UserError(f"bpe(vocab_size={brief(vocab_size)}) is too large: give at most {MOST}, as many as Gemma has")
    if vocab_size < least:
        end = " and one for the end of a text" if eot else ""
        raise UserError(f"bpe(vocab_size={vocab_size}) is too small: give at least {least}, one for each byte{end}")
    hf = hugging_face()
    inner = byte_level(hf.models.BPE())
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size - eot,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=CHARACTERS,
    )
    inner.train_from_iterator((piece for text in pieces(text) for piece in cut(text, _PIECE)), trainer)
    model = json.loads(inner.to_str())
    if eot:  # into the vocabulary and not as a special token, so that a text that spells it does not become it
        model["model"]["vocab"][END] = inner.get_vocab_size()
    return Bpe(model)


def hugging_face() -> Any:
    """The package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("bpe needs the package tokenizers: pip install tokenizers") from error
    return tokenizers
