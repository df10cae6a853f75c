"""Documents: splitting into pieces changes neither the text nor the tokens."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import TOKENIZERS, documents, encode, join_documents, load_corpus, single_piece
from minigpt_flax.data.documents import Piece, read_text, strip_documents

few = settings(deadline=None, max_examples=60)
texts = st.lists(st.text("a é\n🦜", max_size=12), min_size=1, max_size=5)


def in_pieces(document, cuts):
    """A document in pieces, cut anywhere."""
    bounds = [0, *sorted(min(cut, len(document)) for cut in cuts), len(document)]
    pieces = [document[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    return [Piece(text, i == len(pieces) - 1, 0) for i, text in enumerate(pieces)]


@given(texts, st.lists(st.integers(0, 12), max_size=3))
@few
def test_pieces_are_stripped_as_the_whole(given_texts, cuts):
    pieces = [piece for text in given_texts for piece in in_pieces(text, cuts)]
    found, parts = [], []
    for piece in strip_documents(pieces):
        parts.append(piece.text)
        if piece.ends:
            found.append("".join(parts))
            parts = []
    assert not parts and found == [text.strip("\n") for text in given_texts if text.strip("\n")]
    assert "".join(join_documents(map(single_piece, found))) == (
        "\n\n\n".join(found) + "\n" if len(found) > 1 else "".join(found)
    )


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 22])
def test_reading_does_not_depend_on_the_block_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(documents, "_BLOCK", block)
    text = "aé☃🦜\r\n\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    pieces = list(read_text(tmp_path / "a.txt"))
    assert "".join(piece.text for piece in pieces) == text and sum(piece.size for piece in pieces) == len(text.encode())
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("block", [1, 2, 1 << 22])
@pytest.mark.parametrize(("data", "place"), [(b"ab\xe9cd", 2), (b"abc\xe2\x98", 3), (b"ab\0", 2)])
def test_an_invalid_byte_is_located(tmp_path, monkeypatch, block, data, place):
    monkeypatch.setattr(documents, "_BLOCK", block)
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=f"at byte {place}[;)]"):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize("block", [50, 1000, 1 << 22])
@pytest.mark.parametrize("word", [{}, {"eot": True}], ids=["joined", "ended"])
def test_streamed_tokens_match_those_of_the_whole_text(monkeypatch, block, word):
    text = (load_corpus("pydocs").text or "")[:6000]
    parts = [text[:700], "", text[700:5000], "a", text[5000:]]
    tokenizer = TOKENIZERS["bpe"](text, vocab_size=300, **word)
    if word:
        wanted = [token for part in parts for token in [*tokenizer.encode(part), tokenizer.eot]]
    else:
        wanted = tokenizer.encode("".join(join_documents(map(single_piece, parts))))
    monkeypatch.setattr(documents, "_BLOCK", block)
    stream = [piece for part in parts for piece in in_pieces(part, [333, 1234])]
    np.testing.assert_array_equal(np.concatenate(list(encode(tokenizer, stream))), wanted)
