"""Tokenizers: `TOKENIZERS` trains one by name, `load_tokenizer` loads a saved one.

Each tokenizer is a class and a function that trains it, in one file. `char`, `byte` and `bpe` are exact:
``decode(encode(text)) == text``. `gpt2` is a pretrained `bpe`. `ids` is for data that consists of tokens. To add a
tokenizer, write its file and add its rows to the tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minigpt_flax.data.tokenizers.base import FILE as FILE, LIMIT, Tokenizer as Tokenizer
from minigpt_flax.data.tokenizers.bpe import Bpe, bpe
from minigpt_flax.data.tokenizers.byte import Byte, byte
from minigpt_flax.data.tokenizers.char import Char, char
from minigpt_flax.data.tokenizers.gpt2 import gpt2
from minigpt_flax.data.tokenizers.ids import Ids as Ids, ids as ids
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import check_type, read_json, sha256

TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {f.__name__: f for f in (char, byte, bpe, gpt2)}
"""Tokenizers by name; each function takes the text to train on."""

READY_MADE = frozenset(f.__name__ for f in (byte, gpt2))
"""Tokenizers that are not trained on the text, and can therefore be given for data that consists of tokens."""

_CLASSES: dict[str, type[Tokenizer]] = {c.name: c for c in (Char, Byte, Bpe, Ids)}


def load_tokenizer(folder: Path, digest: str | None = None) -> Tokenizer:
    """Load the tokenizer that `Tokenizer.save` wrote into a folder.

    Args:
      folder: folder of a run, or of prepared data.
      digest: `digest_of` the folder when it was written; None accepts any tokenizer.

    Raises:
      UserError: its file is missing, can't be read, is damaged, or has changed.
    """
    path = folder / FILE
    if digest is not None and digest_of(folder) != digest:
        raise UserError(f"{show(path)} has changed since it was written: restore the file")
    fields = read_json(path, LIMIT)
    kind = _CLASSES.get(check_type(fields.get("name", ""), str, f"{show(path)}: name"))
    if kind is None:
        raise UserError(f"{show(path)} is damaged: its name must be one of {', '.join(_CLASSES)}")
    return kind.from_json(fields, show(path))


def digest_of(folder: Path) -> str:
    """Return the hexadecimal SHA-256 of the tokenizer's file in a folder.

    Raises:
      UserError: it can't be read.
    """
    return sha256(folder / FILE, LIMIT)
