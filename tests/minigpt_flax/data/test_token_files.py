"""Token files: several arrays as one, both .bin formats, errors."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import Batches, TokenFiles, evaluation_windows, split
from minigpt_flax.data.token_files import BLOCK, BLOCKS, fingerprint, read_bin
from minigpt_flax.errors import UserError
from tests.minigpt_flax.data.made import llmc


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=60)
def test_several_arrays_are_one(sizes, data):
    whole = np.arange(sum(sizes)) * 3
    tokens = TokenFiles(np.split(whole, np.cumsum(sizes)[:-1]), "made")
    index = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6))
    start, stop = data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole))))
    assert len(tokens) == len(whole)
    np.testing.assert_array_equal(tokens[np.array(index, int).reshape(-1, 1)], whole[np.array(index, int)][:, None])
    np.testing.assert_array_equal(tokens[start:stop], whole[start:stop])
    assert len(tokens[start:stop]) == len(whole[start:stop])


def test_batches_and_windows_of_shards_are_those_of_one_array():
    whole = np.random.default_rng(0).integers(0, 99, 1000).astype(np.uint16)
    shards = TokenFiles(np.split(whole, [100, 107, 900]), "made", 99)
    for one, other in zip(split(whole), split(shards), strict=True):
        for step in (0, 3, 50):
            np.testing.assert_array_equal(Batches(one, 4, 8, 1)(step), Batches(other, 4, 8, 1)(step))
        for windows in zip(evaluation_windows(one, 8, 4), evaluation_windows(other, 8, 4), strict=True):
            for a, b in zip(*windows, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_token_outside_the_vocabulary_is_refused_on_access():
    tokens = TokenFiles([np.array([1, 2, 60])], "bad.bin").with_vocab_size(50)
    assert tokens[np.array([0, 1])].tolist() == [1, 2]
    with pytest.raises(UserError, match=r"'bad.bin' contains the token 60, but the tokenizer has only 50 \(0 to 49\)"):
        tokens[np.array([2])]


@pytest.mark.parametrize(("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_llmc_header(tmp_path, magic, version, dtype):
    wanted = np.arange(50000, 50300)
    tokens, form = read_bin(llmc(tmp_path / "a.bin", wanted, magic=magic, version=version, dtype=dtype))
    assert form is not None and tokens.dtype == np.dtype(dtype) and isinstance(tokens, np.memmap)
    np.testing.assert_array_equal(tokens, wanted)
    assert (form.vocab_size, form.eot) in {(50257, 50256), (128256, 128001)}


BAD = {
    "magic": ({"magic": 20240326}, r"magic number 20240326, but token files of llm.c have 20240520 or 20240801"),
    "version": ({"version": 2}, "has version 2 of llm.c's format; only 1 is supported"),
    "too few": ({"count": 301}, "has 1624 bytes, but the 301 tokens of its header need 1626"),
    "too many": ({"count": 299}, "the 299 tokens of its header need"),
    "none": ({"count": 0}, "the 0 tokens of its header need"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_header(tmp_path, case):
    changes, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        read_bin(llmc(tmp_path / "bad.bin", np.arange(300), **changes))
    assert "bad.bin" in str(error.value) and "\n" not in str(error.value)


def test_fingerprint_sees_length_and_both_ends(tmp_path):
    path = tmp_path / "long.bin"
    with path.open("wb") as file:
        file.truncate(BLOCK * BLOCKS + 12345)  # sparse
    prints = {fingerprint(path)}
    for place in (0, path.stat().st_size - 1, path.stat().st_size):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"x")
        prints.add(fingerprint(path))
    assert len(prints) == 4
