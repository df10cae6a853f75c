"""GPT-2's byte-level BPE with 50,257 tokens, from local files: a folder, or the cache of `tiktoken`.

Radford et al. 2019. The merges become a `Bpe`, so a run stores them in its folder and needs neither afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from minigpt_flax.data.tokenizers.base import END, LIMIT, Texts, visible
from minigpt_flax.data.tokenizers.bpe import Bpe, byte_level, hugging_face
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief, check_type, read_json, read_text

FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # Hugging Face's names, OpenAI's
TOKENS = 50_257  # the last is the end-of-text token
Merges = list[tuple[str, str]]


def gpt2(text: Texts, *, folder: str | None = None) -> Bpe:
    """GPT-2's BPE of 50,257 tokens, the last of which is the end-of-text token; not trained on the text.

    Args:
      text: ignored.
      folder: folder with `vocab.json` and `merges.txt` (or `encoder.json` and `vocab.bpe`), of GPT-2 or another
        vocabulary in this format. None uses the package `tiktoken`, which caches or downloads them.

    Returns:
      The tokenizer.

    Raises:
      UserError: the files are not available, or damaged.
    """
    vocab, merges = _from_tiktoken() if folder is None else _from_folder(folder)
    model = json.loads(byte_level(hugging_face().models.BPE()).to_str())
    model["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in merges]}
    return Bpe(model, "the files of gpt2")


def _from_folder(name: str) -> tuple[dict[str, int], Merges]:
    folder = Path(os.path.expanduser(check_type(name, str, "gpt2: folder")))
    for names in FILES:
        vocab, merges = (folder / name for name in names)
        if os.path.isfile(vocab) and os.path.isfile(merges):
            break
    else:
        pairs = " or ".join(" and ".join(names) for names in FILES)
        raise UserError(f"gpt2(folder={name!r}): the folder lacks {pairs}, the files of GPT-2's tokenizer")
    return from_files(vocab, merges)


def from_files(vocab: Path, merges: Path) -> tuple[dict[str, int], Merges]:
    """Read a vocabulary and its merges.

    Raises:
      UserError: a file can't be read, or is damaged.
    """
    lines = [line.removesuffix("\r") for line in read_text(merges, LIMIT).split("\n")]
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise UserError(f"{show(merges)} is damaged: a line must be two tokens, got {brief(' '.join(wrong[0]))}")
    tokens = read_json(vocab, LIMIT)
    if lacking := [left + right for left, right in pairs if left + right not in tokens]:
        raise UserError(f"{show(vocab)} or {show(merges)} is damaged: the merged {brief(lacking[0])} is not a token")
    return tokens, [(left, right) for left, right in pairs]


class Unavailable(UserError):
    """GPT-2's vocabulary is neither in the cache nor can it be downloaded."""


def _from_tiktoken() -> tuple[dict[str, int], Merges]:
    alternative = "or give the folder of its files: gpt2(folder='...') with vocab.json and merges.txt"
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Unavailable(f"gpt2 needs the package tiktoken: pip install tiktoken; {alternative}") from error
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # errors of the network have no common base class
        raise Unavailable(
            f"GPT-2's vocabulary is not in tiktoken's cache and can't be downloaded ({type(error).__name__}): "
            f"fill the cache on a machine with a network and set TIKTOKEN_CACHE_DIR; {alternative}"
        ) from error
    return from_ranks(encoding._mergeable_ranks)


def from_ranks(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], Merges]:
    """Convert tiktoken's ranks, tokens as bytes by rank, to a vocabulary and merges.

    The merge of a token is the last one when the token alone is encoded with the tokens of lower rank.
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _parts(token, rank, ranks)
            merges.append((visible(left), visible(right)))
    vocab = {visible(token): rank for token, rank in ranks.items()}
    return {**vocab, END: len(vocab)}, merges


def _parts(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the two tokens that the merge of this rank joins."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joins = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(range(len(joins)), key=joins.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
