"""Statistics against exact values."""

import math

import numpy as np
import pytest

from minigpt_flax.data import bits_per_unit, stats, unigram_entropy
from minigpt_flax.data.detokenize import TextSize
from minigpt_flax.data.stats import token_counts


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
def test_counts_do_not_depend_on_the_chunks(monkeypatch, chunk):
    monkeypatch.setattr(stats, "_CHUNK", chunk)
    tokens = np.random.default_rng(0).integers(0, 50, 200).astype(np.uint16)
    np.testing.assert_array_equal(token_counts(tokens), np.bincount(tokens))
    np.testing.assert_array_equal(token_counts(tokens, 60), np.bincount(tokens, minlength=60))
    assert token_counts(tokens[:0]).size == 0


def test_entropy_of_uniform_constant_and_skewed_tokens():
    assert unigram_entropy(np.arange(65), 65) == pytest.approx(math.log(65))
    assert unigram_entropy(np.full(9, 3), 65) == 0
    skewed = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert unigram_entropy(np.array([1, 0, 1, 1]), 2) == pytest.approx(skewed)


def test_a_uniform_guess_among_bytes_costs_eight_bits():
    bits = bits_per_unit(math.log(256), tokens=10, size=TextSize(5, 10))
    assert bits == pytest.approx({"bits_per_character": 16, "bits_per_byte": 8})


@pytest.mark.parametrize("size", [None, TextSize(0, 0)])
def test_without_text_there_are_no_bits_per_character(size):
    assert bits_per_unit(1.0, tokens=10, size=size) == {}
