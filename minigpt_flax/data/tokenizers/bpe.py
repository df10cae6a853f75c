"""Byte-level byte-pair encoding: the bytes, and the most frequent merges of them.

Sennrich, Haddow, Birch 2016 (arXiv:1508.07909), on bytes and with GPT-2's word pattern. Implemented by Hugging Face's
`tokenizers`, which is imported only when used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import ArrayLike

from minigpt_flax.data.tokenizers.base import END, Texts, Tokenizer, cut, pieces, utf8
from minigpt_flax.data.tokenizers.components import CHARACTERS, LEFT_OUT, TOKENS, check_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import brief, check_fields, check_range, check_type

_GROUP = 1 << 22  # characters encoded at once; limits the memory, about 50 bytes per character
_PIECE = 1 << 16  # characters per task of a thread
_RUN = 1 << 12  # characters of a word that are trained on at once; encoding does not split it
_LONG = re.compile(rf"(?<!\S)\S{{{_RUN},}}|(?<!\s)\s{{{_RUN},}}")
MAX_VOCAB_SIZE = 1 << 18  # of `bpe`: each merge costs training time, each token a row of the embedding
ROLES = ("bos_token", "eos_token", "pad_token")  # special tokens, as transformers names them
_SHORTENING = ("truncation", "padding")


class Bpe(Tokenizer):
    """Byte-level BPE; encodes every text."""

    name = "bpe"

    def __init__(
        self, model: dict[str, Any], where: str = "the tokenizer", *, special: Mapping[str, str] | None = None
    ):
        """Load a tokenizer in the format of Hugging Face's `tokenizers`.

        Args:
          model: content of a ``tokenizer.json``.
          where: its location, for error messages.
          special: its special tokens by role, see `ROLES`.

        Raises:
          UserError: it is damaged, or has an unsupported component.
        """
        self._model, self._special = model, dict(special or {})
        checked = _without_special_matches(check_tokenizer(model, where), {END, *self._special.values()})
        with native(f"{where} is damaged"):
            self._inner = hugging_face().Tokenizer.from_str(json.dumps(checked))
            self._inner.encode_special_tokens = True  # text that spells a special token is text
            self.vocab_size = max(self._inner.get_vocab().values()) + 1
        check_range(self.vocab_size, 1, TOKENS, f"{where}: the number of tokens")
        for token in checked["added_tokens"]:
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
        """The end-of-text token, which no text encodes to; None if the tokenizer has none."""
        return self._inner.token_to_id(self._special.get("eos_token", END))

    @property
    def roles(self) -> dict[str, str]:
        """The special tokens by role; as in GPT-2, the end-of-text token has the roles that no other has."""
        if self.eot is None:
            return self._special
        return dict.fromkeys(ROLES, self._special.get("eos_token", END)) | self._special

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is switched off, if it would shorten or lengthen a corpus."""
        found = [name for name in _SHORTENING if self._model.get(name) is not None]
        return (f"{' and '.join(found)} of tokenizer.json switched off: all text is encoded",) if found else ()

    @property
    def special_tokens(self) -> dict[str, int]:
        """The end-of-text token and those that the file marks as special."""
        added = self._model.get("added_tokens") or ()
        named = {token: self._inner.token_to_id(token) for token in self._special.values()}
        marked = {token["content"]: token["id"] for token in added if token.get("special")}
        return super().special_tokens | named | marked

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
        """Return the vocabulary and the merges, in Hugging Face's format, and the special tokens if any are given."""
        return {"model": self._model} | ({"special": self._special} if self._special else {})

    def hugging_face(self) -> dict[str, Any]:
        """Return its own JSON, without what is switched off here, and with the special tokens marked as such."""
        with native("the tokenizer can't be written"):
            numbers = {token: self._inner.token_to_id(token) for token in set(self.roles.values())}
        added = [token for token in self._model.get("added_tokens") or () if token["content"] not in numbers]
        added += [special_token(token, number) for token, number in numbers.items()]
        model = self._model | dict.fromkeys(LEFT_OUT)
        return model | {"added_tokens": sorted(added, key=lambda token: token["id"])}

    @classmethod
    def from_json(cls, fields: dict[str, Any], where: str) -> Bpe:
        """Restore the tokenizer with these merges."""
        found = check_fields(fields, {"name": str, "model": dict, "special": dict}, where, optional=("special",))
        special = check_fields(found.get("special", {}), dict.fromkeys(ROLES, str), f"{where}: special", optional=ROLES)
        tokenizer = cls(found["model"], where, special=special)
        if lacking := [token for token in special.values() if tokenizer._inner.token_to_id(token) is None]:
            raise UserError(f"{where} is damaged: the special token {brief(lacking[0])} is not in the vocabulary")
        return tokenizer


def special_token(content: str, number: int) -> dict[str, Any]:
    """Return an added token in Hugging Face's format."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **flags}


def _without_special_matches(model: dict[str, Any], ends: Collection[str]) -> dict[str, Any]:
    """Return a tokenizer in which text can't become a special token: neither as an added token nor as a piece.

    Args:
      model: a checked tokenizer.
      ends: tokens that are special whatever the file says.
    """
    added = [token | {"special": token.get("special") or token["content"] in ends} for token in model["added_tokens"]]
    special = {token["content"] for token in added if token["special"]}
    inner = model["model"]
    if inner.get("type") == "Unigram":  # a path through a special piece must be worse than any other
        score = 10 * min(-100.0, *(piece[1] for piece in inner["vocab"]))
        vocab = [[piece[0], score if piece[0] in special else piece[1]] for piece in inner["vocab"]]
        inner = inner | {"vocab": vocab}
    return model | {"added_tokens": added, "model": inner}


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
    fed = (part for one in pieces(text) for piece in cut(one, _PIECE) for part in _with_short_runs(piece))
    inner.train_from_iterator(fed, trainer)
    model = json.loads(inner.to_str())
    if eot:  # in the vocabulary and not as a special token, so that no text encodes to it
        model["model"]["vocab"][END] = inner.get_vocab_size()
    return Bpe(model)


def _with_short_runs(text: str) -> Iterator[str]:
    """Split runs of `_RUN` characters without space, or of space: training time is quadratic in the longest word.

    >>> [len(part) for part in _with_short_runs("a" * 9000 + " b")]
    [4096, 4096, 810]
    """
    start = 0
    for run in _LONG.finditer(text):
        for end in range(run.start() + _RUN, run.end() + 1, _RUN):
            yield text[start:end]
            start = end
    yield text[start:]


def hugging_face() -> Any:
    """Import the package `tokenizers`."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("bpe needs the package tokenizers: pip install tokenizers") from error
    return tokenizers
