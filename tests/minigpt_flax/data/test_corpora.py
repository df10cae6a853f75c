"""Corpora: contents, order and errors."""

import hashlib
import sys

import numpy as np
import pytest

from minigpt_flax.data import CORPORA, load_corpus
from minigpt_flax.errors import UserError


@pytest.mark.parametrize("name", CORPORA)
def test_builtin_corpora_are_the_same_each_time(name):
    corpus = load_corpus(name)
    assert corpus.name == name and corpus.tokens is None and corpus.text is not None
    assert len(corpus.text) > 300_000 and "\0" not in corpus.text
    assert corpus == load_corpus(name)
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert list(corpus.sources) == sorted(corpus.sources)


def test_pydocs_has_each_paragraph_once():
    text = load_corpus("pydocs").text
    assert text is not None
    paragraphs = [p.strip("\n") for p in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) > 1000


def test_pydocs_without_the_documentation(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match="installed without its documentation.*--data stdlib"):
        load_corpus("pydocs")


def test_stdlib_has_modules_of_the_standard_library_only(monkeypatch, tmp_path):
    corpus = load_corpus("stdlib")
    assert {name.removesuffix(".py") for name in corpus.sources} <= sys.stdlib_module_names
    assert {"argparse.py", "typing.py"} <= set(corpus.sources)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(UserError, match="no sources of the standard library.*--data pydocs"):
        load_corpus("stdlib")


def test_text_file_is_read_byte_for_byte(tmp_path):
    path, data = tmp_path / "a.text", "naïve\r\n☃ 🦜\n".encode()
    path.write_bytes(data)
    corpus = load_corpus(str(path))
    assert corpus.text is not None and corpus.text.encode() == data
    assert corpus.sha256 == hashlib.sha256(data).hexdigest()
    assert corpus.sources == (str(path),)


def test_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("c.txt", "b/z.MD", "a.py", "weights.npz", ".hidden/a.txt", "b/.secret.txt"):
        (tmp_path / name).write_text(f"text of {name}\n")
    corpus = load_corpus(str(tmp_path))
    assert corpus.sources == ("a.py", "b/z.MD", "c.txt")
    assert corpus.text == "text of a.py\n\n\ntext of b/z.MD\n\n\ntext of c.txt\n"


def test_nanogpt_bin_is_memory_mapped_and_a_damaged_pickle_noted(tmp_path):
    tokens = np.array([1, 50256, 65535], "<u2")
    tokens.tofile(tmp_path / "train.bin")
    (tmp_path / "meta.pkl").write_bytes(b"not a pickle")
    corpus = load_corpus(str(tmp_path / "train.bin"))
    assert corpus.text is None and corpus.tokens is not None and corpus.tokenizer is None
    assert "meta.pkl is not nanoGPT's table of characters" in corpus.notes[0]
    assert [type(part) for part in corpus.tokens._parts] == [np.memmap] and not corpus.tokens._parts[0].flags.writeable
    np.testing.assert_array_equal(corpus.tokens, tokens)


BAD_FILES = {
    "empty.txt": (b"", "has no text"),
    "blank.txt": (b" \n\n", "has no text"),
    "binary.txt": (b"ab\0cd", "0x00 at byte 2"),
    "utf16.txt": (
        "a text".encode("utf-16-le"),
        "is UTF-16LE, not UTF-8; convert it with iconv -f UTF-16LE -t utf-8 .*utf16.txt > .*utf16-utf8.txt",
    ),
    "latin1.txt": (b"caf\xe9 au lait", "not UTF-8 .0xe9 at byte 3.*iconv"),
    "gbk.txt": ("中文".encode("gb18030"), "not UTF-8 .0xd6 at byte 0.; .*iconv -f "),
    "empty.bin": (b"", "is empty"),
    "odd.bin": (b"abc", "3 bytes, which is not a whole number"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path, name):
    data, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        load_corpus(str(tmp_path / name))
    assert "\n" not in str(error.value) and name in str(error.value)


def test_bad_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="bad.txt.*at byte 0"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize("names", [(), ("picture.png",), ("empty.txt",)])
def test_folder_without_text(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"has no text.*\.md \.py \.rst \.tex \.txt"):
        load_corpus(str(tmp_path))


def test_missing_source_names_the_nearest_corpus():
    with pytest.raises(UserError, match=r"'pydoc' \(did you mean 'pydocs'\?\).*pydocs, stdlib"):
        load_corpus("pydoc")


def test_unreadable_source(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("text")

    def refuse(self, *mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UserError, match="can't read .*a.txt: Permission denied"):
        load_corpus(str(path))
