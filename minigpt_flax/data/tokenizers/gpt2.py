"""GPT-2's own byte-level BPE, 50,257 tokens, from files that are at hand: a folder, or what `tiktoken` has.

Radford et al. 2019. The merges become a `Bpe`, so a run keeps them in its folder and needs neither again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from minigpt_flax.data.tokenizers.base import LIMIT, Texts
from minigpt_flax.data.tokenizers.bpe import END, Bpe, byte_level, hugging_face
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs.schema import brief, check_type, read_json, read_text

_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # Hugging Face's names, OpenAI's
Merges = list[tuple[str, str]]


def gpt2(text: Texts, *, folder: str | None = None) -> Bpe:
    """GPT-2's BPE of 50,257 tokens, the last of which ends a document; learns nothing from the text.

    Args:
        text: not looked at.
        folder: has `vocab.json` and `merges.txt` (or `encoder.json` and `vocab.bpe`), of GPT-2 or of another
            vocabulary in its format. None asks the package `tiktoken`, which has them in its cache or downloads them.

    Returns:
        The tokenizer.

    Raises:
        UserError: the files are not at hand, or damaged.
    """
    vocab, merges = _from_tiktoken() if folder is None else _from_folder(folder)
    model = json.loads(byte_level(hugging_face().models.BPE()).to_str())
    model["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in merges]}
    return Bpe(model, "the files of gpt2")


def _from_folder(name: str) -> tuple[dict[str, int], Merges]:
    folder = Path(os.path.expanduser(check_type(name, str, "gpt2: folder")))
    for names in _FILES:
        vocab, merges = (folder / name for name in names)
        if os.path.isfile(vocab) and os.path.isfile(merges):
            break
    else:
        pairs = " or ".join(" and ".join(names) for names in _FILES)
        raise UserError(f"gpt2(folder={name!r}): that folder lacks {pairs}, which GPT-2's tokenizer is made of")
    lines = read_text(merges, LIMIT).split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise UserError(f"{show(merges)} is damaged: a line must be two tokens, got {brief(' '.join(wrong[0]))}")
    tokens = read_json(vocab, LIMIT)
    if lacking := [left + right for left, right in pairs if left + right not in tokens]:
        raise UserError(f"{show(vocab)} or {show(merges)} is damaged: the merged {brief(lacking[0])} is no token")
    return tokens, [(left, right) for left, right in pairs]


def _from_tiktoken() -> tuple[dict[str, int], Merges]:
    ways = "or give the folder of its files: gpt2(folder='...') with vocab.json and merges.txt"
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"gpt2 needs the package tiktoken: pip install tiktoken; {ways}") from error
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # whatever the network raises
        raise UserError(
            f"GPT-2's vocabulary is not in tiktoken's cache and can't be downloaded ({type(error).__name__}): "
            f"fill the cache on a machine with a network and set TIKTOKEN_CACHE_DIR; {ways}"
        ) from error
    return from_ranks(encoding._mergeable_ranks)


def from_ranks(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], Merges]:
    """Returns vocabulary and merges of what `tiktoken` keeps: tokens as bytes, by rank.

    The merge that made a token is the last one of merging it alone, by the tokens below its rank.
    """
    spell = _characters()
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _parts(token, rank, ranks)
            merges.append((spell(left), spell(right)))
    vocab = {spell(token): rank for token, rank in ranks.items()}
    return {**vocab, END: len(vocab)}, merges


def _parts(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that the merge of this rank joins."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        joins = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(range(len(joins)), key=joins.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _characters():
    """GPT-2's spelling of bytes as visible characters: those that have one, then from U+0100 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    table = {**{b: chr(b) for b in visible}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}
    return lambda token: "".join(table[byte] for byte in token)
