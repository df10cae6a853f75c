"""Tokenizers: exact round trips, in memory and through a file."""

import json
import sys
import time

import numpy as np
import pytest

from minigpt_flax.data import TOKENIZERS, ids, load_corpus, load_tokenizer
from minigpt_flax.data.tokenizers.base import FILE
from minigpt_flax.data.tokenizers.bpe import _PIECE
from minigpt_flax.errors import UserError

TEXTS = {
    "pydocs": load_corpus("pydocs").text or "",
    "scripts": "naïve Ωμέγα 汉字 👩‍👩‍👧 🦜 e\u0301 \u00a0\u2028\x85\x1c\ufeff\0\x7f\U0010ffff",
    "spaces": "  a\n\n\nb \r\n\tc\n d\ne   \n",
    "letter": "a",
}
LEARNED = [name for name in TOKENIZERS if name != "gpt2"]  # which has tests of its own
TRAINED = [(name, text) for name in LEARNED for text in TEXTS]


@pytest.mark.parametrize(("name", "text"), TRAINED)
def test_round_trip_in_memory_and_through_a_file(tmp_path, name, text):
    tokenizer = TOKENIZERS[name](TEXTS[text])
    encoded = tokenizer.encode(TEXTS[text])
    assert tokenizer.name == name and encoded.dtype == np.int32
    assert 0 <= encoded.min() and encoded.max() < tokenizer.vocab_size
    assert tokenizer.decode(encoded) == TEXTS[text]
    assert tokenizer.decode(encoded.tolist()) == TEXTS[text]

    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and loaded.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(loaded.encode(TEXTS[text]), encoded)
    assert loaded.decode(encoded) == TEXTS[text]


@pytest.mark.parametrize("name", LEARNED)
def test_empty_text(name):
    tokenizer = TOKENIZERS[name]("abc")
    assert tokenizer.encode("").shape == (0,) and tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_byte_tokenizers_encode_unseen_text(name):
    tokenizer = TOKENIZERS[name]("plain English")
    assert tokenizer.decode(tokenizer.encode(TEXTS["scripts"])) == TEXTS["scripts"]
    half = tokenizer.encode("é")[:1]
    assert tokenizer.decode(half) == "\ufffd"
    with pytest.raises(UserError, match=r"'\\udcff' at position 3.*UTF-8"):
        tokenizer.encode("abc\udcff")


def test_char_numbers_by_code_point():
    tokenizer = TOKENIZERS["char"]("b\na🦜é")
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode("\nabé🦜").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("text", ["é", "\x00", "\U0010ffff", "\udcff", "a☃b", "c"])
def test_char_names_unknown_characters_and_the_remedy(text):
    with pytest.raises(UserError) as error:
        TOKENIZERS["char"]("ab\n").encode(text)
    message = str(error.value)
    assert repr(text.strip("ab")) in message and "--tokenizer byte" in message
    assert repr("\nab") in message and "\n" not in message


def test_char_lists_ten_unknown_characters_at_most():
    with pytest.raises(UserError, match="'0', .*'9' and others;"):
        TOKENIZERS["char"]("ab").encode("0123456789xyz")


def test_char_and_byte_are_fast():
    text = TEXTS["pydocs"] * 3
    for name in ("char", "byte"):
        tokenizer = TOKENIZERS[name](text)
        start = time.perf_counter()
        tokenizer.encode(text)
        assert time.perf_counter() - start < 0.5  # about 0.03 s alone on a core


def test_bpe_has_the_requested_size_and_is_shorter():
    text = TEXTS["pydocs"]
    tokenizer = TOKENIZERS["bpe"](text, vocab_size=500)
    assert tokenizer.vocab_size == 500
    assert len(tokenizer.encode(text)) < 0.5 * len(text)
    again = TOKENIZERS["bpe"](text, vocab_size=500)
    assert again.to_json() == tokenizer.to_json()


def test_bpe_encodes_pieces_as_the_whole():
    tokenizers = pytest.importorskip("tokenizers")
    text = TEXTS["pydocs"] + TEXTS["spaces"] + TEXTS["scripts"]
    assert len(text) > 4 * _PIECE
    tokenizer = TOKENIZERS["bpe"](text)
    whole = tokenizers.Tokenizer.from_str(json.dumps(tokenizer.to_json()["model"])).encode(text)
    np.testing.assert_array_equal(tokenizer.encode(text), whole.ids)


def test_no_text_encodes_to_end_of_text():
    tokenizer = TOKENIZERS["bpe"](TEXTS["pydocs"] + "<|endoftext|>" * 999, vocab_size=300, eot=True)
    assert tokenizer.vocab_size == 300 and tokenizer.eot == 299
    text = "a<|endoftext|>b"
    assert tokenizer.eot not in tokenizer.encode(text) and tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([tokenizer.eot]) == "<|endoftext|>"
    assert [TOKENIZERS[name]("abc").eot for name in LEARNED] == [None] * len(LEARNED)
    assert ids(np.array([7])).eot is None


def test_bpe_smaller_than_the_bytes():
    with pytest.raises(UserError, match=r"bpe\(vocab_size=255\) is too small.*256"):
        TOKENIZERS["bpe"]("text", vocab_size=255)


def test_bpe_smaller_than_the_bytes_and_the_end():
    with pytest.raises(UserError, match=r"bpe\(vocab_size=256\) is too small.*257.*end of a text"):
        TOKENIZERS["bpe"]("text", vocab_size=256, eot=True)


def test_bpe_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers"):
        TOKENIZERS["bpe"]("text")


def test_ids_stand_in_for_a_tokenizer(tmp_path):
    tokenizer = ids(np.array([7, 0, 3], np.uint16))
    assert tokenizer.vocab_size == 8
    assert tokenizer.decode(np.array([7, 0, 3])) == "7 0 3"
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(" 7 0\n3").tolist() == [7, 0, 3]


@pytest.mark.parametrize("text", ["Once", "1 8", "-1", "1.5", "²"])
def test_ids_refuses_invalid_tokens(text):
    with pytest.raises(UserError, match="is not a token.*0 to 7"):
        ids(np.array([7])).encode(text)


DAMAGED = {
    "cut short": '{"name": "char", "charac',
    "empty": "",
    "no name": "{}",
    "no object": "[]",
    "unknown name": '{"name": "word"}',
    "no characters": '{"name": "char"}',
    "unsorted characters": '{"name": "char", "characters": "ba"}',
    "repeated characters": '{"name": "char", "characters": "aa"}',
    "empty characters": '{"name": "char", "characters": ""}',
    "characters are numbers": '{"name": "char", "characters": 5}',
    "no model": '{"name": "bpe"}',
    "foreign model": '{"name": "bpe", "model": {"a": 1}}',
    "no tokens": '{"name": "ids", "vocab_size": 0}',
    "tokens are text": '{"name": "ids", "vocab_size": "5"}',
}

SAYS = {
    "no characters": "has no field 'characters'",
    "characters are numbers": "characters must be text",
    "no model": "has no field 'model'",
    "foreign model": "has an unknown field 'a'",
    "tokens are text": "vocab_size must be a whole number",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file(tmp_path, damage):
    (tmp_path / FILE).write_text(DAMAGED[damage])
    with pytest.raises(UserError, match=f"tokenizer.json.*{SAYS.get(damage, 'is damaged')}") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_invalid_utf_8_is_decoded_to_replacement_characters(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged"):
        load_tokenizer(tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="can't read .*tokenizer.json: No such file"):
        load_tokenizer(tmp_path)
