"""Sources: patterns, folders, fields, validation files and errors."""

import sys

import numpy as np
import pytest

from minigpt_flax.data import load_corpus
from minigpt_flax.errors import UserError
from tests.minigpt_flax.data.made import jsonl, llmc


def test_a_pattern_reads_its_files_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"\n{name}\n\n")
    corpus = load_corpus(str(tmp_path / "*.txt"))
    assert corpus.documents == ("a.txt", "b.txt") and corpus.text == "a.txt\n\n\nb.txt\n"
    assert corpus.sources == (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))


def test_jsonl_has_one_document_per_line(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ["one\n", "", "größe"])
    path.write_bytes(path.read_bytes() + b"\n  \n")  # empty lines count for nothing
    assert load_corpus(str(path)).documents == ("one\n", "", "größe")
    other = jsonl(tmp_path / "b.jsonl", ["two"], field="content")
    assert load_corpus(f"{other}#content").documents == ("two",)


def test_a_path_with_a_hash_sign_is_a_path(tmp_path):
    (tmp_path / "c#.txt").write_text("music")
    assert load_corpus(str(tmp_path / "c#.txt")).text == "music"


def nanogpt(folder, **files):
    for name, tokens in files.items():
        np.array(tokens, "<u2").tofile(folder / f"{name}.bin")


@pytest.mark.parametrize("source", ["", "train.bin"])
def test_validation_file_beside_training_file_of_nanogpt(tmp_path, source):
    nanogpt(tmp_path, train=[1, 2, 3], val=[4, 5])
    corpus = load_corpus(str(tmp_path / source))
    assert np.asarray(corpus.tokens).tolist() == [1, 2, 3] and np.asarray(corpus.val_tokens).tolist() == [4, 5]


@pytest.mark.parametrize("source", ["", "fineweb_train_*.bin", "*.bin", "fineweb_train_000002.bin"])
def test_validation_file_beside_training_files_of_llmc(tmp_path, source):
    llmc(tmp_path / "fineweb_val_000000.bin", [7, 8])
    for number in (1, 2):
        llmc(tmp_path / f"fineweb_train_00000{number}.bin", [number] * 3)
    corpus = load_corpus(str(tmp_path / source))
    assert np.asarray(corpus.tokens).tolist() == ([2] * 3 if "2" in source else [1] * 3 + [2] * 3)
    assert np.asarray(corpus.val_tokens).tolist() == [7, 8]
    assert corpus.format is not None and corpus.format.eot == 50256


def test_without_validation_data_the_split_is_used(tmp_path):
    nanogpt(tmp_path, interval=[1, 2])  # 'val' only as a part of a word
    assert load_corpus(str(tmp_path)).val_tokens is None


def test_any_changed_shard_changes_the_hash(tmp_path):
    nanogpt(tmp_path, train_0=[1, 2], train_1=[3, 4], val_0=[5])
    hashes = {load_corpus(str(tmp_path)).sha256}
    for name in ("train_0", "train_1", "val_0"):
        nanogpt(tmp_path, **{name: [9, 9]})
        hashes.add(load_corpus(str(tmp_path)).sha256)
    assert len(hashes) == 4


BAD = {
    "no match": ({}, "*.txt", r"no file matches '.*\*.txt'; patterns are relative to the folder"),
    "broken line": ({"a.jsonl": b'{"text": "x"}\n{"text'}, "a.jsonl", r"a.jsonl', line 2, is not JSON"),
    "not UTF-8": ({"a.jsonl": b'{"text": "\xff"}\n'}, "a.jsonl", "line 1, is not UTF-8"),
    "no object": ({"a.jsonl": b"[1]\n"}, "a.jsonl", "line 1, is not a JSON object"),
    "no field": (
        {"a.jsonl": b'{"body": "x"}\n'},
        "a.jsonl",
        r"line 1, has no field 'text'; it has: 'body'; .*SOURCE#FIELD",
    ),
    "no text": ({"a.jsonl": b'{"text": 5}\n'}, "a.jsonl", "line 1, has no text in the field 'text', but 5"),
    "nothing": ({"a.jsonl": b"\n"}, "a.jsonl", "has no text"),
    "field of a text": ({"a.txt": b"x"}, "a.txt#body", "but only records .* and hf: datasets have fields"),
    "tokens and text": ({"a.bin": b"xx", "b.txt": b"x"}, "*", r"tokens \(.bin\) and text"),
    "two formats": ({"a.bin": b"xx", "llmc.bin": None}, "*.bin", "several formats"),
    "empty": ({"a.bin": b""}, "*.bin", "a.bin' is empty"),
    "odd": ({"a.bin": b"xxx"}, "*.bin", "a.bin' has 3 bytes, which is not a whole number of uint16 tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_source(tmp_path, case):
    files, source, message = BAD[case]
    for name, data in files.items():
        llmc(tmp_path / name, [1, 2]) if data is None else (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_corpus(str(tmp_path / source))
    assert "\n" not in str(error.value)


def test_hugging_face_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="'hf:some/set' needs the package datasets: pip install datasets"):
        load_corpus("hf:some/set")


def test_hugging_face_from_a_local_folder(tmp_path):
    pytest.importorskip("datasets")
    jsonl(tmp_path / "train.jsonl", ["one", "two"], field="body")
    jsonl(tmp_path / "validation.jsonl", ["three"], field="body")
    corpus = load_corpus(f"hf:{tmp_path}#body")
    assert corpus.documents == ("one", "two") and corpus.val_documents == ("three",)
    with pytest.raises(UserError, match="row 0, has no field 'text'; it has: id, body"):
        load_corpus(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="can't open the dataset") as error:
        load_corpus(f"hf:{tmp_path / 'nothing'}")
    assert "\n" not in str(error.value)
