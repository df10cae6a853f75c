"""Streamed text: the concatenation is the text of the whole sequence, and nothing is ever retracted."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import TOKENIZERS, ids
from minigpt_flax.data.detokenize import MAX_IDS, StopStream, TextStream

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
    places = [text.find(stop) for stop in stops if stop in text]
    assert stream.stopped == bool(places)
    # A stop is seen when it ends: of two that overlap the one that ends first may win.
    assert text.startswith(given) and (given == text if not places else not any(stop in given for stop in stops))
    assert not stops or not places or any(text[len(given) :].startswith(stop) for stop in stops)
