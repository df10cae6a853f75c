"""The tokenizer of a Hugging Face folder, in each form that needs no other package than `tokenizers`.

These are ``tokenizer.json``; ``vocab.json`` and ``merges.txt`` (byte-level BPE, as GPT-2's before 2021); and
``vocab.txt`` (WordPiece, as BERT's and many Chinese GPT-2s'). The names of the special tokens come from
``tokenizer_config.json``, ``special_tokens_map.json`` or the ids in ``config.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt_flax.data.tokenizers.base import FILE, LIMIT
from minigpt_flax.data.tokenizers.bpe import ROLES, Bpe, byte_level, hugging_face, special_token
from minigpt_flax.data.tokenizers.gpt2 import FILES, from_files
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import quote, show
from minigpt_flax.runs.schema import brief, read_json, read_text

WORDPIECE = "vocab.txt"
BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "Qwen2Tokenizer")
WORDPIECE_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
OTHERS = (  # files of tokenizers that need another package
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.model", "tekken.json", "qwen.tiktoken"),
    *("vocab.json", "merges.txt", "tokenizer.tiktoken", "bpe.codes"),
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
DIGITS = 10  # of the id of a token, fewer than that


def read_folder(folder: Path) -> Bpe | None:
    """Read the tokenizer of a folder; None if it has none.

    Raises:
      UserError: its files are damaged, have an unsupported component, or are of a form that needs another package.
    """
    settings = {name: _optional(folder / name) for name in (*SETTINGS, "config.json", "added_tokens.json")}
    kind = _class_of(settings)
    if os.path.lexists(folder / FILE):
        model = read_json(folder / FILE, LIMIT)
    elif pair := next((pair for pair in FILES if all(os.path.lexists(folder / name) for name in pair)), None):
        _require(folder, " and ".join(pair), kind, BYTE_LEVEL_CLASSES)
        model = _byte_level(folder / pair[0], folder / pair[1], settings)
    elif os.path.lexists(folder / WORDPIECE):
        _require(folder, WORDPIECE, kind, WORDPIECE_CLASSES)
        model = _wordpiece(folder / WORDPIECE, settings)
    elif found := [name for name in OTHERS if os.path.lexists(folder / name)]:
        raise _convertible(folder, f"in {found[0]}")
    else:
        return None
    where = show(folder / FILE if os.path.lexists(folder / FILE) else folder)
    return Bpe(model, where, special=_special(settings, model))


def _optional(path: Path) -> Mapping[str, Any]:
    return read_json(path, LIMIT) if os.path.lexists(path) else {}


def _class_of(settings: Mapping[str, Mapping[str, Any]]) -> str:
    found = [settings[name].get("tokenizer_class") for name in ("tokenizer_config.json", "config.json")]
    return next((kind for kind in found if isinstance(kind, str)), "").removesuffix("Fast")


def _require(folder: Path, files: str, kind: str, known: tuple[str, ...]) -> None:
    if kind not in ("", "PreTrainedTokenizer", *known):
        raise _convertible(folder, f"of the class {brief(kind)} in {files}")


def _convertible(folder: Path, what: str) -> UserError:
    code = "import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])"
    return UserError(
        f"{show(folder)} has a tokenizer {what}, which is not supported: give --tokenizer, or write its tokenizer.json "
        f"where transformers is installed: python -c {quote(code)} {quote(show(folder))}"
    )


def _byte_level(vocab: Path, merges: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    tokens, pairs = from_files(vocab, merges)
    model = json.loads(byte_level(hugging_face().models.BPE()).to_str())
    model["pre_tokenizer"]["add_prefix_space"] = settings["tokenizer_config.json"].get("add_prefix_space") is True
    model["model"] |= {"vocab": tokens, "merges": [list(pair) for pair in pairs]}
    return model | {"added_tokens": _added(settings, tokens)}


def _wordpiece(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    lines = read_text(path, LIMIT).split("\n")
    tokens = {line.removesuffix("\r"): number for number, line in enumerate(lines[: -1 if not lines[-1] else None])}
    given = settings["tokenizer_config.json"]
    lower = given.get("do_lower_case", True) is not False
    strip = given.get("strip_accents")
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": given.get("tokenize_chinese_chars", True) is not False,
        "strip_accents": strip if isinstance(strip, bool) else None,
        "lowercase": lower,
    }
    return {
        "version": "1.0",
        "added_tokens": _added(settings, tokens),
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": tokens,
        },
    }


def _added(settings: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the tokens that were added to the vocabulary, in the order of their ids."""
    entries = settings["tokenizer_config.json"].get("added_tokens_decoder")
    beside = {
        entry["content"]: int(number)
        for number, entry in (entries if isinstance(entries, dict) else {}).items()
        if number.isdecimal() and len(number) < DIGITS and isinstance(entry, dict) and _is_text(entry.get("content"))
    }
    given = beside | dict(settings["added_tokens.json"])
    numbered = {token: number for token, number in given.items() if type(number) is int and token not in tokens}
    return [special_token(token, number) for token, number in sorted(numbered.items(), key=lambda item: item[1])]


def _special(settings: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens that are in the vocabulary, by role."""
    vocab = model.get("model", {}).get("vocab", {}) if isinstance(model.get("model"), dict) else {}
    numbers = {token: i for i, token in enumerate(_names(vocab))} if isinstance(vocab, list) else dict(vocab)
    added = model.get("added_tokens")
    numbers |= {t["content"]: t.get("id") for t in added or () if isinstance(t, dict) and _is_text(t.get("content"))}
    by_id = {number: token for token, number in numbers.items() if type(number) is int}
    found: dict[str, str] = {}
    for role in ROLES:
        named = [settings[name].get(role) for name in SETTINGS]
        named = [token.get("content") if isinstance(token, dict) else token for token in named]
        number = settings["config.json"].get(f"{role}_id")
        candidates = [*named, by_id.get(number) if type(number) is int else None]
        token = next((token for token in candidates if _is_text(token) and token in numbers), None)
        if token is not None:
            found[role] = token
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _names(pieces: list[Any]) -> list[str]:
    """Return the pieces of a Unigram vocabulary, which is a list of pairs; damage is found later."""
    return [piece[0] if isinstance(piece, list) and piece and _is_text(piece[0]) else "" for piece in pieces]
