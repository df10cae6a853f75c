"""Data and tokenizer files from unknown sources: every kind of damage results in one line."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from minigpt_flax.data import TOKENIZERS, digest_of, load_corpus, load_tokenizer
from minigpt_flax.data.prepared import write_prepared
from minigpt_flax.data.tokenizers.bpe import Bpe
from minigpt_flax.data.tokenizers.components import GROWTH, PARTS, TOKENS
from minigpt_flax.data.tokenizers.folder import read_folder
from minigpt_flax.errors import UserError
from minigpt_flax.train.dataset import load_dataset
from tests.minigpt_flax.damage import FILES, damage_file, damaged_json
from tests.minigpt_flax.data.made import llmc
from tests.minigpt_flax.foreign import TEXTS, TOKENIZER_FILES
from tests.minigpt_flax.train.test_build import config
from tests.minigpt_flax.training import ROOT

OWN = {
    spec: TOKENIZERS[spec.split("(")[0]]("hello world", **keywords)
    for spec, keywords in {"char": {}, "byte": {}, "bpe(eot=True)": {"vocab_size": 260, "eot": True}}.items()
}


def refused(call, *values):
    """Whether a call raises a `UserError` of one short line; any other exception fails the test."""
    try:
        call(*values)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600, error
        assert type(error.__cause__).__name__ != "PanicException", error
        return True
    return False


def used(tokenizer):
    """Encodes and decodes with a tokenizer that was accepted; a text may be refused, an id may not."""
    for text in TEXTS:
        if not refused(tokenizer.encode, text):
            ids = tokenizer.encode(text)
            assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
    for number in range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 50)):
        tokenizer.decode([number, number]).encode()


@pytest.fixture
def prepared(tmp_path):
    tokenizer = OWN["char"]
    tokens = [tokenizer.encode("hello world " * 10)]
    write_prepared("a.txt", tmp_path / "data", tokenizer, tokens, None)
    return tmp_path / "data"


def opened(folder):
    corpus = load_corpus(str(folder))
    np.asarray(corpus.tokens), np.asarray(corpus.val_tokens)


def test_every_damaged_field_of_a_prepared_folder(prepared):
    values = json.loads((prepared / "tokens.json").read_text())
    answers = {}
    for how, other in damaged_json(values):
        (prepared / "tokens.json").write_text(json.dumps(other))
        answers[how] = refused(opened, prepared)
    taken = {how for how, answer in answers.items() if not answer}
    assert len(answers) > 100
    assert all(how.startswith("source = ") for how in taken), taken


@pytest.mark.parametrize("name", ["tokens.json", "tokenizer.json", "train.bin", "val.bin"])
@pytest.mark.parametrize("how", FILES)
def test_every_damaged_file_of_a_prepared_folder(prepared, name, how):
    damage_file(prepared / name, how)
    assert refused(opened, prepared) or (name, how) == ("tokens.json", "missing")  # a folder of .bin files then


@pytest.mark.parametrize("dtype", ["O", "<O", "|V2", "<f4", "<u8", ">u2", "u2", "<M8[s]", "<U1", "u2,u2", "S2", "?"])
def test_only_written_dtypes_are_read(prepared, dtype):
    values = json.loads((prepared / "tokens.json").read_text())
    (prepared / "tokens.json").write_text(json.dumps(values | {"dtype": dtype}))
    with pytest.raises(UserError, match="dtype must be one of <u2, <u4, got .*prepare the data again"):
        load_corpus(str(prepared))


def test_a_replaced_tokenizer_is_refused(prepared):
    TOKENIZERS["char"]("HELLO WRD").save(prepared)
    with pytest.raises(UserError, match="tokenizer.json has changed since it was written"):
        load_corpus(str(prepared))


def test_a_folder_of_version_1_opens(prepared):
    values = json.loads((prepared / "tokens.json").read_text())
    assert values.pop("tokenizer_sha256") == digest_of(prepared)
    (prepared / "tokens.json").write_text(json.dumps(values | {"version": 1}))
    opened(prepared)


@pytest.mark.parametrize("spec", OWN)
def test_every_damage_of_an_own_tokenizer(tmp_path, spec):
    OWN[spec].save(tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    for _, other in itertools.islice(damaged_json(values), None, None, 4):
        path.write_text(json.dumps(other))
        if not refused(load_tokenizer, tmp_path):
            used(load_tokenizer(tmp_path))
    for how in FILES:
        path.unlink(missing_ok=True)
        OWN[spec].save(tmp_path)
        damage_file(path, how)
        assert refused(load_tokenizer, tmp_path), how
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TOKENIZER_FILES)
def test_every_damage_of_a_hugging_face_tokenizer(kind, every):
    used(Bpe(TOKENIZER_FILES[kind]))
    answers = []
    for _, other in itertools.islice(damaged_json(TOKENIZER_FILES[kind]), None, None, every):
        answers.append(refused(Bpe, other))
        if not answers[-1]:
            used(Bpe(other))
    assert len(answers) > 300 // every and sum(answers) > len(answers) // 2


@pytest.mark.parametrize("how", FILES)
def test_every_damaged_file_of_a_hugging_face_tokenizer(tmp_path, how):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(TOKENIZER_FILES["gpt2"]))
    tokenizer = read_folder(tmp_path)
    assert tokenizer is not None and tokenizer.vocab_size == 259
    damage_file(path, how)
    assert read_folder(tmp_path) is None if how == "missing" else refused(read_folder, tmp_path)


def test_truncation_padding_and_special_tokens_are_removed():
    for kind in ("gpt2", "llama2"):
        tokenizer = Bpe(TOKENIZER_FILES[kind])
        assert len(tokenizer.encode("aaaaaaaaaaaa")) > 4 and 1 not in tokenizer.encode("a").tolist()
        assert tokenizer.to_json()["model"] == TOKENIZER_FILES[kind]  # and stay in the file


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


BOMBS = {
    "replacements that multiply": {
        "normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "a" * 16)] * 8}
    },
    "a long replacement": {"normalizer": replace({"String": "a"}, "b" * 10**7)},
    "a replacement of nothing": {"normalizer": replace({"String": ""}, "x")},
    "an expression that explodes": {"normalizer": replace({"Regex": "(a+)+$"}, "x")},
    "a polynomial expression": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r"\s*\s*\s*\s*x"},
            "behavior": "Removed",
            "invert": False,
        }
    },
    "an expression that matches nothing": {"normalizer": replace({"Regex": "a*"}, "x")},
    "an expression of a gigabyte": {"normalizer": replace({"Regex": "a{100000}"}, "x")},
    "bytes of bytes": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
            ]
            * PARTS,
        }
    },
    "a long sequence": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 10**4}},
    "nested sequences": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Sequence", "normalizers": [replace({"String": "a"}, "a" * 8)]}],
        }
    },
    "a charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a strip of both ends": {"decoder": {"type": "Strip", "content": "a", "start": 1, "stop": 1}},
    "a decoder that multiplies": {
        "decoder": {"type": "Sequence", "decoders": [replace({"String": "a"}, "a" * 16)] * 8}
    },
    "an empty added token": {"added_tokens": [{"id": 258, "content": ""}]},
    "an added token that the normalizer empties": {
        "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True},
        "added_tokens": [{"id": 258, "content": "\n", "normalized": True}],
    },
    "added tokens that claim the same space": {
        "added_tokens": [{"id": 258, "content": " "}, {"id": 259, "content": "x", "lstrip": True}]
    },
    "an added token at a far id": {"added_tokens": [{"id": TOKENS - 1, "content": "<far>"}]},
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_components_that_could_crash_or_hang_are_refused(bomb):
    assert GROWTH >= 16
    assert refused(Bpe, TOKENIZER_FILES["gpt2"] | BOMBS[bomb])


def test_ids_and_vocabularies_are_bounded():
    base = TOKENIZER_FILES["gpt2"]
    for change in (
        {"vocab": {"a": 0, "b": 10**9}, "merges": []},
        {"vocab": {"a": 0, "b": 0}, "merges": []},
        {"vocab": {"a": -1}, "merges": []},
        {"vocab": {"a" * 5000: 0}, "merges": []},
        {"vocab": {}, "merges": []},
        {"merges": [["h", "z"]]},
        {"dropout": 0.1},
    ):
        assert refused(Bpe, base | {"model": base["model"] | change, "added_tokens": []}), change
    gaps = Bpe(base | {"model": base["model"] | {"vocab": {"a": 0, "b": 500}, "merges": []}, "added_tokens": []})
    assert gaps.vocab_size == 501 and gaps.decode([250]) == ""


ABORTS = """
import json, sys
from minigpt_flax.data.tokenizers.bpe import Bpe
from minigpt_flax.errors import UserError
sys.path.insert(0, {root!r})
from tests.minigpt_flax.foreign import TOKENIZER_FILES
from tests.minigpt_flax.data.test_foreign import BOMBS
for bomb in BOMBS.values():
    try:
        Bpe(TOKENIZER_FILES["t5"] | bomb).encode(" a\\n" * 100)
    except UserError:
        pass
"""


def test_nothing_aborts_the_process():
    code = ABORTS.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "keywords",
    [
        {"vocab_size": 10**10},
        {"vocab_size": 10**30},
        {"vocab_size": -1},
        {"vocab_size": 300.0},
        {"vocab_size": None},
        {"vocab_size": True},
        {"vocab_size": "300"},
        {"eot": 2},
    ],
    ids=str,
)
def test_keywords_of_bpe_are_bounded(keywords):
    assert refused(lambda: TOKENIZERS["bpe"].__wrapped__("text", **keywords))  # without the tests' own check of types


def test_a_panic_of_the_library_is_one_line(monkeypatch):
    class PanicException(BaseException):
        pass

    class Broken:
        def decode(self, ids, skip_special_tokens):
            raise PanicException("index out\nof bounds")

    tokenizer = Bpe(TOKENIZER_FILES["gpt2"])
    monkeypatch.setattr(tokenizer, "_inner", Broken())
    with pytest.raises(UserError, match="can't decode these tokens: index out of bounds"):
        tokenizer.decode([1])


HEADERS = [
    {"count": 10**6},
    {"count": 2**31 - 1},
    {"count": -5},
    {"count": 0},
    {"count": 3},
    {"version": 2},
    {"version": -1},
    {"magic": 1},
    {"magic": 20240801},
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_headers_of_token_files(tmp_path, header):
    path = llmc(tmp_path / "a.bin", range(1, 6), **{"count": 5, **header})
    assert refused(load_corpus, str(path))


@pytest.mark.parametrize("name", ["a.bin", "a.txt", "a.jsonl"])
@pytest.mark.parametrize("how", FILES)
def test_every_damaged_source(tmp_path, name, how):
    path = tmp_path / name
    path.write_bytes(b'{"text": "some text"}\n' * 10)
    damage_file(path, how)
    taken = refused(load_corpus, str(path))
    assert taken or (how, name) in {*TEXT_OF_ANYTHING, *TOKENS_OF_ANYTHING}


TOKENS_OF_ANYTHING = {(how, "a.bin") for how in ("cut", "garbage", "deep", "NULs")}  # uint16 has no wrong bytes
TEXT_OF_ANYTHING = {(how, "a.txt") for how in ("cut", "deep", "list")} | {("cut", "a.jsonl")}  # between two lines

LINES = {
    "deep": b'{"text": "a", "b": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "not finite and long": b'{"text": 1e999}',
    "digits": b'{"text": ' + b"9" * 10**5 + b"}",
    "null": b'{"text": null}',
    "list": b'["text"]',
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "long names": b'{"' + b"x" * 10**6 + b'": 1}',
    "many names": json.dumps({str(i): 1 for i in range(10**4)}).encode(),
}


@pytest.mark.parametrize("line", LINES)
def test_lines_without_text(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + LINES[line] + b"\n")
    assert refused(load_corpus, str(path))


def test_a_line_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt_flax.data.documents.LINE", 100)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 200}))
    with pytest.raises(UserError, match="line 1, has more than 100 bytes"):
        load_corpus(str(path))


def test_lines_that_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "marked", "n": NaN}\n{"text": "nul \\u0000"}\n{"text": "\\ud83d\\ude00"}\n')
    assert load_corpus(str(path)).documents == ("marked", "nul \0", "😀")


@pytest.mark.parametrize("spec", ["char", "byte", "bpe(vocab_size=300)", "bpe(vocab_size=300, eot=True)"])
def test_lone_surrogates_are_replaced_and_counted(tmp_path, spec):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "half \\ud83d"}\n{"text": "two \\udfff\\ud800 \\ud83d\\ude00"}\n' * 20)
    data = load_dataset(config(data=str(path), tokenizer=spec))
    assert data.replaced == 60
    text = data.tokenizer.decode(np.concatenate([np.asarray(data.parts[0].train), np.asarray(data.parts[0].val)]))
    assert text.count("\ufffd") == 60 and "😀" in text
    text.encode()


def test_a_char_tokenizer_of_an_older_run_with_a_surrogate(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"name": "char", "characters": "ab\\ud83d"}')
    assert load_tokenizer(tmp_path).decode([0, 2, 1]) == "a\ufffdb"


def test_names_that_look_like_patterns(tmp_path, monkeypatch):
    folder = tmp_path / "[2026] a*b?"
    (folder / "sub[1]").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "sub[1]" / "b.txt").write_text("two")
    (folder / "train[x].bin").write_bytes(b"abcd")
    (folder / "val[x].bin").write_bytes(b"ef")
    for source, text in (("a.txt", "one"), ("*.txt", "one"), ("**/b.txt", "two"), ("sub[1]/*", "two")):
        assert load_corpus(str(folder / source)).text == text
        monkeypatch.chdir(folder)
        assert load_corpus(source).text == text
    assert np.asarray(load_corpus(str(folder / "train[[]x].bin")).val_tokens).tolist() == [
        int.from_bytes(b"ef", "little")
    ]


@pytest.mark.parametrize(
    "source", ["", " ", "~nosuchuser/a.txt", "~nosuchuser", "loop", "loop/a.txt", "dangling", "a\0b"]
)
def test_sources_that_do_not_exist(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    os.symlink("loop", "loop")
    os.symlink("nothing", "dangling")
    assert refused(load_corpus, source)


def test_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.txt")
    path.write_text("text")
    assert load_corpus(str(path)).text == load_corpus(str(tmp_path)).text == "text"


def test_a_folder_with_links_and_pipes(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.symlink("loop.txt", tmp_path / "loop.txt")
    os.symlink(tmp_path, tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    assert load_corpus(str(tmp_path)).sources == ("a.txt",)
