"""Byte-level byte-pair encoding: the bytes, and the most frequent merges of them.

Sennrich, Haddow, Birch 2016 (arXiv:1508.07909), on bytes and with GPT-2's word pattern. Implemented by Hugging Face's
`tokenizers`, which is imported only when used.
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

from minigpt_flax.data.tokenizers.base import END, LIMIT, Texts, Tokenizer, cut, pieces, utf8
from minigpt_flax.data.tokenizers.components import CHARACTERS, TOKENS, check_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief, check_fields, check_range, check_type, read_json

_GROUP = 1 << 22  # characters encoded at once; limits the memory, about 50 bytes per character
_PIECE = 1 << 16  # characters per task of a thread
MAX_VOCAB_SIZE = 1 << 18  # of `bpe`: each merge costs training time, each token a row of the embedding


class Bpe(Tokenizer):
    """Byte-level BPE; encodes every text."""

    name = "bpe"

    def __init__(self, model: dict[str, Any], where: str = "the tokenizer"):
        """Load a tokenizer in the format of Hugging Face's `tokenizers`.

        Args:
          model: content of a ``tokenizer.json``.
          where: its location, for error messages.

        Raises:
          UserError: it is damaged, or has an unsupported component.
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
            raise UserError(f"{where} has an id that does not match its position")
        if token.get("normalized", True) and self._inner.normalizer is not None:
            with native(f"{where} can't be normalized"):
                text = self._inner.normalizer.normalize_str(token["content"])
            if not text:  # the library would match it everywhere, even inside characters
                raise UserError(f"{where} is empty after the normalizer")

    @property
    def eot(self) -> int | None:
        """The token ``<|endoftext|>``, which no text encodes to; None if it was not requested."""
        return self._inner.token_to_id(END)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The end-of-text token and those that the file marks as special."""
        added = self._model.get("added_tokens", ())
        return super().special_tokens | {token["content"]: token["id"] for token in added if token.get("special")}

    def encode(self, text: str) -> Int32[np.ndarray, " tokens"]:
        """Return the ids of the merged pieces."""
        return np.concatenate([self.encode_batch([group])[0] for group in cut(text, _GROUP)])

    def encode_batch(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " tokens"]]:
        """Return the ids of each text; encodes on all cores at once."""
        rows = [list(cut(utf8(text).decode(), _PIECE)) for text in texts]
        with native("the tokenizer can't encode the text"):
            encodings = iter(self._inner.encode_batch_fast([piece for row in rows for piece in row]))
        return [np.concatenate([np.array(next(encodings).ids, np.int32) for _ in row]) for row in rows]

    def decode(self, ids: ArrayLike) -> str:
        """Return the text of these tokens."""
        with native("the tokenizer can't decode these tokens"):
            return self._inner.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def to_json(self) -> dict[str, Any]:
        """Return the vocabulary and the merges, in Hugging Face's format."""
        return {"model": self._model}

    def hugging_face(self) -> str:
        """Return its own JSON."""
        return json.dumps(self._model, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Bpe:
        """Restore the tokenizer with these merges."""
        return cls(check_fields(fields, {"name": str, "model": dict}, where)["model"], where)


def read_hugging_face(path: Path) -> Bpe:
    """Read a Hugging Face ``tokenizer.json``.

    Raises:
      UserError: it can't be read, is damaged, or has an unsupported component.
    """
    return Bpe(read_json(path, LIMIT), show(path))


@contextmanager
def native(failure: str) -> Iterator[None]:
    """Convert what `tokenizers` raises to a `UserError`: plain exceptions, and panics, which are no `Exception`."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{failure}: {' '.join(str(error).split()):.200}") from error


def byte_level(model: Any) -> Any:
    """Return a `tokenizers.Tokenizer` that applies these merges to the bytes of each word, like GPT-2."""
    hf = hugging_face()
    inner = hf.Tokenizer(model)
    inner.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = hf.decoders.ByteLevel()
    return inner


def bpe(text: Texts, *, vocab_size: int = 1024, eot: bool = False) -> Bpe:
    """Byte-level BPE, trained on the text: encodes every text, in sequences 2 to 4 times shorter than characters.

    Args:
      text: training text.
      vocab_size: number of tokens, at least 256: the bytes, then one token per merge. A short text may have fewer pairs
        to merge; `Bpe.vocab_size` is the actual number.
      eot: make the last token ``<|endoftext|>``, the token between documents.

    Returns:
      The tokenizer.

    Raises:
      UserError: `vocab_size` is below 256 or above `MAX_VOCAB_SIZE`, or the package `tokenizers` is missing.
    """
    check_type(vocab_size, int, "bpe: vocab_size")
    check_type(eot, bool, "bpe: eot")
    least = 256 + eot
    if vocab_size > MAX_VOCAB_SIZE:
        raise UserError(
            f"bpe(vocab_size={brief(vocab_size)}) is too large: give at most {MAX_VOCAB_SIZE}, as many as Gemma has"
        )
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
    if eot:  # in the vocabulary and not as a special token, so that no text encodes to it
        model["model"]["vocab"][END] = inner.get_vocab_size()
    return Bpe(model)


def hugging_face() -> Any:
    """Import the package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("bpe needs the package tokenizers: pip install tokenizers") from error
    return tokenizers
