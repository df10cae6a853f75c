"""Tokenizers as others save them: the components of GPT-2, Llama 2 and 3, BERT, T5 and a list of words, in small."""

from typing import Any

TEXTS = ("", "a", " ", "hello world 12", "  a\n\n", "é€😀", "\0\ufffd", "<s> <|endoftext|> [UNK]", "ab" * 3000)
_BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [chr(b) for b in _BYTES] + [chr(256 + i) for i in range(256 - len(_BYTES))]  # as GPT-2 writes bytes
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def _numbered(tokens):
    return {token: number for number, token in enumerate(tokens)}


def _added(number, content, **flags):
    default = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content, **default, **flags}


def _file(model, **components) -> dict[str, Any]:
    names = ("truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(names), "added_tokens": [], **components, "model": model}


TOKENIZER_FILES = {
    "gpt2": _file(
        {"type": "BPE", **_BPE, "vocab": _numbered([*_BYTES, "he", "hel"]), "merges": ["h e", "he l"]},
        added_tokens=[_added(258, "<|endoftext|>", normalized=True)],
        pre_tokenizer=_BYTE_LEVEL,
        post_processor=_BYTE_LEVEL,
        decoder=_BYTE_LEVEL,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
    ),
    "llama2": _file(
        {
            "type": "BPE",
            **_BPE,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": _numbered(["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "▁a", "ab"]),
            "merges": [["▁", "a"], ["a", "b"]],
        },
        added_tokens=[_added(0, "<unk>"), _added(1, "<s>")],
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    ),
    "llama3": _file(
        {
            "type": "BPE",
            **_BPE,
            "ignore_merges": True,
            "vocab": _numbered([*_BYTES, "he", "he l"]),
            "merges": [["h", "e"]],
        },
        added_tokens=[_added(258, "<|endoftext|>")],
        normalizer={"type": "NFC"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _GPT4}, "behavior": "Isolated", "invert": False},
                {"type": "Digits", "individual_digits": True},
                {**_BYTE_LEVEL, "use_regex": False},
            ],
        },
        decoder=_BYTE_LEVEL,
    ),
    "bert": _file(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": _numbered(["[UNK]", "[PAD]", "hello", "wor", "##ld", "a", "##b", "##a"]),
        },
        added_tokens=[_added(0, "[UNK]")],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
    "t5": _file(
        {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["▁", -2.0], ["▁a", -3.5], ["b", -4], ["a", -4.5]],
            "byte_fallback": False,
        },
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            ],
        },
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    ),
    "words": _file(
        {"type": "WordLevel", "vocab": _numbered(["[UNK]", "hello", "world", "a"]), "unk_token": "[UNK]"},
        added_tokens=[_added(4, "[SEP]", lstrip=True, rstrip=True, single_word=True, normalized=True)],
        normalizer={"type": "Lowercase"},
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Whitespace"},
                {"type": "Punctuation", "behavior": "Isolated"},
                {"type": "CharDelimiterSplit", "delimiter": ","},
            ],
        },
        decoder={"type": "BPEDecoder", "suffix": "</w>"},
    ),
}
