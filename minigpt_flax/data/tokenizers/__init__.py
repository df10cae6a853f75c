"""Text to integers and back: `TOKENIZERS` trains one by name, `load_tokenizer` finds it again.

A tokenizer is a class and the function that trains it, one file each. `char`, `byte` and `bpe` are
exact: ``decode(encode(text)) == text``. `gpt2` is a `bpe` that others trained. `ids` is for data that
came as tokens. To add one: its file, and its rows in the tables here.
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
"""Words of the command line; each function takes the text to train on."""

READY_MADE = frozenset(f.__name__ for f in (byte, gpt2))
"""Those that learn nothing from the text, and so may stand for tokens that came without any."""

_CLASSES: dict[str, type[Tokenizer]] = {c.name: c for c in (Char, Byte, Bpe, Ids)}


def load_tokenizer(folder: Path, digest: str | None = None) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.save` wrote into `folder`.

    Args:
        folder: of a run, or of prepared data.
        digest: what `digest_of` gave when it was written; None takes any tokenizer.

    Raises:
        UserError: its file is missing, can't be read, is damaged, or is another than the one that was written.
    """
    path = folder / FILE
    if digest is not None and digest_of(folder) != digest:
        raise UserError(f"{show(path)} has changed since it was written: bring back the file")
    fields = read_json(path, LIMIT)
    kind = _CLASSES.get(check_type(fields.get("name", ""), str, f"{show(path)}: name"))
    if kind is None:
        raise UserError(f"{show(path)} is damaged: its name must be one of {', '.join(_CLASSES)}")
    return kind.from_json(fields, show(path))


def digest_of(folder: Path) -> str:
    """Returns the SHA-256 of the tokenizer's file in a folder, in hexadecimal.

    Raises:
        UserError: it can't be read.
    """
    return sha256(folder / FILE, LIMIT)
