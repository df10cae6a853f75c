"""``meta.pkl``, the characters of a nanoGPT folder of tokens, read without executing what a pickle can name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from minigpt_flax.data.tokenizers.char import Char
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief, read_bytes

META = "meta.pkl"
LIMIT = 1 << 26  # bytes; the whole of Unicode takes less


class _Plain(pickle.Unpickler):
    """Reads numbers, text and containers; any function or class that the pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise UserError(f"it names {brief(f'{module}.{name}')}, which was not executed")


def read_meta_pickle(path: Path) -> Char:
    """Read the ``itos`` of nanoGPT's character-level data, which numbers the characters in their order.

    Raises:
      UserError: it can't be read, contains code, or is of another kind.
    """
    try:
        meta = _Plain(io.BytesIO(read_bytes(path, LIMIT))).load()
        characters = meta["itos"]
        return Char("".join(characters[i] for i in range(len(characters))))
    except UserError as error:
        raise UserError(f"{show(path)} is not nanoGPT's table of characters: {error}") from error
    except Exception as error:  # a damaged pickle raises anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.100}"
        raise UserError(f"{show(path)} is not nanoGPT's table of characters ({reason})") from error
