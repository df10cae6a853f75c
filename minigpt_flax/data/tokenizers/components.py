"""Check a Hugging Face ``tokenizer.json`` before the native library `tokenizers` reads it.

The library trusts its input: a replacement can multiply the text, a regular expression can take exponential time, and
an invalid number can abort the process. Only components whose time and memory are linear in the text are allowed.

Truncation, padding and the post-processor are removed: they shorten a corpus, pad it, or add special tokens around
every piece of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.runs.schema import brief, check_fields, check_range, check_type

TOKENS = 1 << 20  # maximum number of ids; the largest published vocabulary, XLM-V's, has 901,629
CHARACTERS = 1 << 10  # maximum length of a token
AFFIX = 16  # maximum length of a text that a component adds or replaces
GROWTH = 64  # maximum number of characters that the components may make of one
PARTS = 16  # maximum number of components in a sequence
LEFT_OUT = ("truncation", "padding", "post_processor")
_GPT4 = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?"
REGEXES = frozenset(
    {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|\p{{N}}{{1,3}}{_GPT4}",  # GPT-4, Llama 3
        rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|\p{{N}}{{1,2}}{_GPT4}",  # nanochat
        rf"{_CONTRACTIONS}|{_WORD}\p{{L}}+|\p{{N}}{_GPT4}",  # Qwen 2
        rf"{_WORD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_WORD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # GPT-4o
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",  # GPT-4, as tiktoken writes it
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM
    }
)
_ATOM = r"(?:\\[sdwSDW]|\\[pP]\{\w{1,12}\}|\[\^?(?:[^\[\]\\&]|\\[sdwrnt]|\\[pP]\{\w{1,12}\})+\]|[^\\\[\](){}.*+?|^$])"
_BRANCH = rf"(?:{_ATOM}{{1,32}}|{_ATOM}(?:\+|\{{[1-9]\d?(?:,\d{{0,2}})?\}}))"
_SIMPLE = re.compile(rf"{_BRANCH}(?:\|{_BRANCH}){{0,15}}")  # branches of characters or one repetition; never empty

Check = Callable[[Any, str], Any]


def check_tokenizer(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check everything in the file that could do harm.

    Args:
      values: content of the file, as parsed JSON.
      where: its location, for error messages.

    Returns:
      The content without `LEFT_OUT`, for the library, which reports mere inconsistencies as exceptions.

    Raises:
      UserError: a component or value is not allowed; the first is named.
    """
    fields: dict[str, Any] = {
        name: Any for name in (*LEFT_OUT, "version", "normalizer", "pre_tokenizer", "decoder", "model")
    }
    fields["added_tokens"] = tuple[dict, ...]
    found = check_fields(values, fields, where, optional=fields.keys() - {"model"})
    growth = 1.0
    for name, table in (("normalizer", NORMALIZERS), ("pre_tokenizer", PRE_TOKENIZERS), ("decoder", DECODERS)):
        component = found.get(name)
        if component is not None:
            growth *= _component(component, table, f"{where}: {name}")
    if growth > GROWTH:
        raise UserError(f"{where}: its replacements can turn one character into {growth:.3g}, more than {GROWTH}")
    _model(found["model"], f"{where}: model")
    _added(found.get("added_tokens", ()), f"{where}: added_tokens")
    return dict(values) | dict.fromkeys(LEFT_OUT) | {"added_tokens": list(found.get("added_tokens", ()))}


def _component(value: Any, table: Mapping[str, Mapping[str, Check]], where: str) -> float:
    """Check a component, or a sequence of them; return the factor by which it can multiply the characters."""
    check_type(value, dict, where)
    kind = value.get("type")
    inner = next((name for name in ("normalizers", "pretokenizers", "decoders") if name in value), None)
    if kind == "Sequence" and inner is not None and len(value) == 2:
        parts = check_type(value[inner], tuple[dict, ...], where)
        check_range(len(parts), 0, PARTS, f"{where}: the number of components")
        growth = 1.0
        for part in parts:
            growth *= _component(part, table, where)  # a nested sequence fails: its type is in no table
            if part.get("type") == "Sequence":
                raise UserError(f"{where} has a Sequence inside a Sequence: write it as one")
        return growth
    if not isinstance(kind, str) or kind not in table:
        raise UserError(f"{where} has the type {brief(kind)}, which is not supported; there are: {', '.join(table)}")
    for name, part in value.items():
        if name != "type":
            if name not in table[kind]:
                raise UserError(f"{where}: {kind} has an unknown field {brief(name)}")
            table[kind][name](part, f"{where}: {kind}: {name}")
    return _growth(value)


def _growth(value: Mapping[str, Any]) -> float:
    """Return the number of characters that a component can make of one."""
    if value["type"] == "Replace":
        pattern = value.get("pattern", {})
        return max(1.0, len(value.get("content", "")) / max(1, len(pattern.get("String", " "))))
    return 2.0 if value["type"] == "ByteLevel" else 1.0  # one character per byte, in each application


def _flag(value: Any, what: str) -> None:
    check_type(value, bool, what)


def _flag_or_none(value: Any, what: str) -> None:
    check_type(value, bool | None, what)


def _text(low: int, high: int) -> Check:
    def check(value: Any, what: str) -> None:
        check_range(len(check_type(value, str, what)), low, high, f"{what}: the number of characters")

    return check


def _number(low: int, high: int) -> Check:
    return lambda value, what: check_range(check_type(value, int, what), low, high, what)


def _one_of(*words: str) -> Check:
    def check(value: Any, what: str) -> None:
        if value not in words:
            raise UserError(f"{what} must be one of {', '.join(words)}, got {brief(value)}")

    return check


def _pattern(value: Any, what: str) -> None:
    """Check a text, or a regular expression whose time is linear in the text."""
    check_type(value, dict, what)
    if len(value) != 1 or next(iter(value)) not in ("String", "Regex"):
        raise UserError(f"{what} must have one field, String or Regex")
    text = check_type(next(iter(value.values())), str, what)
    check_range(len(text), 1, CHARACTERS, f"{what}: the number of characters")
    if "Regex" in value and text not in REGEXES and not _SIMPLE.fullmatch(text):
        raise UserError(
            f"{what}: the regular expression {brief(text)} may take exponential time; give another tokenizer with "
            "--tokenizer, without this file"
        )


_affix, _character = _text(0, AFFIX), _text(1, 1)
_behavior = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_scheme = _one_of("first", "never", "always")
_BYTE_LEVEL = {"add_prefix_space": _flag, "trim_offsets": _flag, "use_regex": _flag}
_METASPACE = {
    "replacement": _character,
    "str_rep": _character,
    "add_prefix_space": _flag,
    "prepend_scheme": _scheme,
    "split": _flag,
}
_REPLACE = {"pattern": _pattern, "content": _affix}
NORMALIZERS: dict[str, Mapping[str, Check]] = {
    **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")},
    "Strip": {"strip_left": _flag, "strip_right": _flag},
    "Prepend": {"prepend": _text(1, AFFIX)},
    "Replace": _REPLACE,
    "BertNormalizer": {
        "clean_text": _flag,
        "handle_chinese_chars": _flag,
        "strip_accents": _flag_or_none,
        "lowercase": _flag,
    },
}
PRE_TOKENIZERS: dict[str, Mapping[str, Check]] = {
    **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")},
    "ByteLevel": _BYTE_LEVEL,
    "Metaspace": _METASPACE,
    "Split": {"pattern": _pattern, "behavior": _behavior, "invert": _flag},
    "Digits": {"individual_digits": _flag},
    "Punctuation": {"behavior": _behavior},
    "CharDelimiterSplit": {"delimiter": _character},
}
DECODERS: dict[str, Mapping[str, Check]] = {
    **{name: {} for name in ("ByteFallback", "Fuse")},
    "ByteLevel": _BYTE_LEVEL,
    "Metaspace": _METASPACE,
    "WordPiece": {"prefix": _affix, "cleanup": _flag},
    "BPEDecoder": {"suffix": _text(1, AFFIX)},
    "Replace": _REPLACE,
    "Strip": {"content": _character, "start": _number(0, AFFIX), "stop": _number(0, 0)},  # both panic on short tokens
}
_MODEL_FIELDS: dict[str, Mapping[str, Any]] = {
    "BPE": {
        "dropout": float | None,
        "unk_token": str | None,
        "continuing_subword_prefix": str | None,
        "end_of_word_suffix": str | None,
        "fuse_unk": bool,
        "byte_fallback": bool,
        "ignore_merges": bool,
        "vocab": dict,
        "merges": tuple[Any, ...],
    },
    "WordPiece": {
        "unk_token": str,
        "continuing_subword_prefix": str,
        "max_input_chars_per_word": int,
        "vocab": dict,
    },
    "WordLevel": {"unk_token": str, "vocab": dict},
    "Unigram": {"unk_id": int | None, "vocab": tuple[Any, ...], "byte_fallback": bool},
}


def _model(value: Any, where: str) -> None:
    check_type(value, dict, where)
    kind = value.get("type", "BPE")  # absent in files of 2019 and 2020
    if not isinstance(kind, str) or kind not in _MODEL_FIELDS:
        raise UserError(f"{where} has the type {brief(kind)}; there are: {', '.join(_MODEL_FIELDS)}")
    fields = _MODEL_FIELDS[kind]
    rest = {name: part for name, part in value.items() if name != "type"}
    found = check_fields(rest, fields, where, optional=fields.keys() - {"vocab", "merges"})
    _vocabulary(found["vocab"] if kind != "Unigram" else _pieces(found, where), f"{where}: vocab")
    if kind == "BPE":
        _bpe(found, where)
    elif kind != "Unigram" and found.get("unk_token") not in found["vocab"]:
        raise UserError(f"{where}: the unk_token is not in the vocabulary")
    _number(1, CHARACTERS)(found.get("max_input_chars_per_word", 100), f"{where}: max_input_chars_per_word")
    _affix(found.get("continuing_subword_prefix") or "", f"{where}: continuing_subword_prefix")


def _vocabulary(vocab: Mapping[str, Any], where: str) -> None:
    check_range(len(vocab), 1, TOKENS, f"{where}: the number of tokens")
    for token, number in vocab.items():
        if not 0 < len(token) <= CHARACTERS:
            raise UserError(f"{where}: {brief(token)} must have from 1 to {CHARACTERS} characters")
        if type(number) is not int or not 0 <= number < TOKENS:
            raise UserError(f"{where}: {brief(token)} must have an id from 0 to {TOKENS - 1:,}, got {brief(number)}")
    if len(set(vocab.values())) < len(vocab):
        raise UserError(f"{where} gives two tokens the same id")


def _pieces(found: Mapping[str, Any], where: str) -> dict[str, int]:
    """Return the vocabulary of Unigram, which is a list of pieces with their scores."""
    vocab: dict[str, int] = {}
    for piece in found["vocab"]:
        if not (isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str)):
            raise UserError(f"{where}: vocab must be a list of pairs, piece and score, got {brief(piece)}")
        if type(piece[1]) not in (int, float) or not math.isfinite(piece[1]):
            raise UserError(f"{where}: the score of {brief(piece[0])} must be a finite number, got {brief(piece[1])}")
        vocab[piece[0]] = len(vocab)
    if len(vocab) < len(found["vocab"]):
        raise UserError(f"{where}: vocab contains a piece twice")
    if found.get("unk_id") is not None:
        check_range(found["unk_id"], 0, len(vocab) - 1, f"{where}: unk_id")
    return vocab


def _bpe(found: Mapping[str, Any], where: str) -> None:
    vocab = found["vocab"]
    if found.get("dropout"):
        raise UserError(f"{where}: dropout makes the tokens of a text random; set it to null")
    if found.get("continuing_subword_prefix"):
        raise UserError(f"{where}: continuing_subword_prefix is not supported for BPE; set it to null")
    _affix(found.get("end_of_word_suffix") or "", f"{where}: end_of_word_suffix")
    if found.get("unk_token") is not None and found["unk_token"] not in vocab:
        raise UserError(f"{where}: the unk_token is not in the vocabulary")
    check_range(len(found["merges"]), 0, TOKENS, f"{where}: the number of merges")
    for merge in found["merges"]:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise UserError(f"{where}: a merge must be two tokens, got {brief(merge)}")
        for token in (*pair, pair[0] + pair[1]):
            if token not in vocab:
                raise UserError(f"{where}: the merge of {brief(merge)} needs {brief(token)}, which is not a token")


def _added(tokens: tuple[dict[str, Any], ...], where: str) -> None:
    fields = {"id": int, "content": str}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), bool)
    check_range(len(tokens), 0, TOKENS, f"{where}: the number of tokens")
    for token in tokens:
        check_fields(token, fields | flags, where, optional=flags)
        check_range(token["id"], 0, TOKENS - 1, f"{where}: id")
        _text(1, CHARACTERS)(token["content"], f"{where}: content")
    if any(token.get("lstrip") or token.get("rstrip") for token in tokens):
        for token in tokens:
            if token["content"] != token["content"].strip():  # the library panics if two tokens match the same space
                raise UserError(
                    f"{where}: {brief(token['content'])} starts or ends with space, and another has lstrip or rstrip"
                )
