"""Streamed text: the concatenation is the text of the whole sequence, and nothing is ever retracted."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import TOKENIZERS, detokenize, ids
from minigpt_flax.data.detokenize import MAX_IDS, StopStream, TextStream, text_size

TEXT = "Grüße, 你好, \U0001f600\U0001f468\u200d\U0001f469!\n" * 9
MAKERS = {
    "char": lambda: TOKENIZERS["char"](TEXT + "\ufffd"),
    "byte": lambda: TOKENIZERS["byte"](TEXT),
    "bpe": lambda: TOKENIZERS["bpe"](TEXT, vocab_size=270),
    "ids": lambda: ids(np.arange(300)),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pieces_joined_are_the_text(name, size):
    tokenizer = MAKERS[name]()
    row = np.arange(200) % 300 if name == "ids" else tokenizer.encode(TEXT)
    assert len(row) > 2 * MAX_IDS
    stream, pieces = TextStream(tokenizer), []
    for start in range(0, len(row), size):
        pieces.append(stream.add(row[start : start + size].tolist()))
    assert "\ufffd" not in "".join(pieces)
    assert "".join([*pieces, stream.end()]) == tokenizer.decode(row)


def test_characters_are_complete():
    stream = TextStream(TOKENIZERS["byte"](""))
    assert [stream.add([byte]) for byte in "a\U0001f600b".encode()] == ["a", "", "", "", "\U0001f600", "b"]


def test_an_incomplete_character_is_returned_at_the_end():
    stream = TextStream(TOKENIZERS["byte"](""))
    assert (stream.add([97, 0xF0, 0x9F]), stream.end()) == ("a", "\ufffd")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=3 * MAX_IDS), st.integers(1, 7))
def test_any_bytes(row, size):
    tokenizer = TOKENIZERS["byte"]("")
    stream = TextStream(tokenizer)
    pieces = [stream.add(row[start : start + size]) for start in range(0, len(row), size)]
    assert "".join([*pieces, stream.end()]) == tokenizer.decode(row)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab\n", max_size=4), max_size=9), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_text_ends_before_the_first_stop_string(pieces, stops):
    stream, text = StopStream(stops), "".join(pieces)
    given = "".join(stream.add(piece) for piece in pieces) + stream.end()
    ends = [(end, end - len(stop)) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    assert stream.stopped == bool(ends)
    assert given == (text[: min(ends)[1]] if ends else text)


@pytest.mark.parametrize("pieces", [["x abc y"], ["x ab", "c y"], [*"x abc y"]])
def test_the_stop_string_that_ends_first_wins_however_the_text_arrives(pieces):
    stream = StopStream(["abc", "b", "ab"])
    assert "".join(map(stream.add, pieces)) == "x " and stream.stopped  # "b" and "ab" end together: the longer one


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
def test_the_size_of_a_text_is_measured_in_pieces(name, chunk, monkeypatch):
    monkeypatch.setattr(detokenize, "_CHUNK", chunk)
    tokenizer = MAKERS[name]()
    assert text_size(tokenizer, tokenizer.encode(TEXT)) == (len(TEXT), len(TEXT.encode()))
    assert text_size(tokenizer, tokenizer.encode("")) == (0, 0)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_end_of_text_is_no_text(chunk, monkeypatch):
    monkeypatch.setattr(detokenize, "_CHUNK", chunk)
    tokenizer = TOKENIZERS["bpe"](TEXT, vocab_size=270, eot=True)
    documents = ["Grüße", "", "<|endoftext|>", "你好" * 50]
    tokens = np.concatenate([np.append(tokenizer.encode(text), tokenizer.eot) for text in documents])
    text = "".join(documents)
    for row in (tokens, tokens[:-1], np.append(tokenizer.eot, tokens)):
        assert text_size(tokenizer, row) == (len(text), len(text.encode()))


def test_numbers_have_no_text():
    assert text_size(MAKERS["ids"](), np.arange(9)) is None


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(detokenize, "_CHUNK", 100)
    tokenizer, longest = TOKENIZERS["byte"](""), 0

    def decode(ids, original=tokenizer.decode):
        nonlocal longest
        longest = max(longest, len(ids))
        return original(ids)

    monkeypatch.setattr(tokenizer, "decode", decode)
    assert text_size(tokenizer, np.tile(tokenizer.encode("né"), 5000)) == (10_000, 15_000)
    assert longest <= 300
