"""Text to integers and back: `TOKENIZERS` trains one by name, `load_tokenizer` finds it again.

A tokenizer is a class and the function that trains it, one file each. `char`, `byte` and `bpe` are
exact: ``decode(encode(text)) == text``. `gpt2` is a `bpe` that others trained. `ids` is for data that
came as tokens. To add one: its file, and its rows in the tables here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from minigpt_flax.data.tokenizers.base import FILE, Tokenizer as Tokenizer
from minigpt_flax.data.tokenizers.bpe import Bpe, bpe
from minigpt_flax.data.tokenizers.byte import Byte, byte
from minigpt_flax.data.tokenizers.char import Char, char
from minigpt_flax.data.tokenizers.gpt2 import gpt2
from minigpt_flax.data.tokenizers.ids import Ids as Ids, ids as ids
from minigpt_flax.errors import UserError

TOKENIZERS: dict[str, Callable[..., Tokenizer]] = {f.__name__: f for f in (char, byte, bpe, gpt2)}
"""Words of the command line; each function takes the text to train on."""

READY_MADE = frozenset(f.__name__ for f in (byte, gpt2))
"""Those that learn nothing from the text, and so may stand for tokens that came without any."""

_CLASSES: dict[str, type[Tokenizer]] = {c.name: c for c in (Char, Byte, Bpe, Ids)}


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.save` wrote into `folder`.

    Raises:
        UserError: its file is missing, cannot be read or is damaged.
    """
    path = folder / FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return _CLASSES[fields["name"]].from_json(fields)
    except UserError:  # a package is missing, and says so
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give the folder of a run, which has this file"
        ) from error
    except Exception as error:  # `tokenizers` raises bare Exceptions at a damaged model
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}); "
            "put a copy in its place, or train again"
        ) from error
