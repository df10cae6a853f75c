"""Where texts begin and end: end-of-text, special tokens in prompts, stop strings."""

import jax
import numpy as np
import pytest

from minigpt_flax.data import TOKENIZERS, Ids, ids
from minigpt_flax.data.tokenizers.bpe import Bpe
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.train import sample as module
from minigpt_flax.train.sample import beginning, encode_special, sample, write

END = 3
NUMBERS = Ids(11, END)
CONFIG = ModelConfig(vocab_size=11, context=16, layers=1, heads=1, width=4)
BPE = TOKENIZERS["bpe"]("one two", vocab_size=260, eot=True)
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
SPECIAL = {"content": "<|pad|>", "id": 260, "special": True, **FLAGS}


@pytest.fixture(scope="module")
def params():
    return jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(0))


@pytest.fixture
def tokens(monkeypatch):
    """Replaces what the model samples: chunks of one row each."""

    def replace(*chunks):
        monkeypatch.setattr(module, "stream", lambda *_, **__: (np.array([chunk]) for chunk in chunks))

    return replace


def written(tokenizer, prompts=(None,), **how):
    """Texts and numbers of tokens."""
    pieces = [piece for chunk in write(CONFIG, {}, tokenizer, list(prompts), **how) for piece in chunk]
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return "".join(piece.text for piece in pieces), sum(piece.tokens for piece in pieces)


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (NUMBERS, [END]),
        (BPE, [BPE.eot]),
        (TOKENIZERS["char"]("a\nb"), [0]),
        (TOKENIZERS["byte"](""), [10]),
        (ids(np.arange(9)), [0]),
    ],
)
def test_a_text_without_a_prompt_begins_after_end_of_text_if_there_is_one(tokenizer, expected):
    assert beginning(tokenizer).tolist() == expected


@pytest.mark.parametrize("chunks", [([1, 2, END, 4],), ([1], [2, END], [4, 5]), ([1], [2], [END], [4])])
def test_a_text_ends_at_end_of_text(tokens, chunks):
    tokens(*chunks)
    assert written(NUMBERS) == ("1 2", 3)
    tokens(*chunks)
    text, count = written(NUMBERS, ignore_eos=True)
    assert text.startswith("1 2 3 4") and count == sum(map(len, chunks))


def test_text_that_is_held_back_is_returned_at_end_of_text(tokens):
    tokens([97, 0xE4, BPE.eot])  # ends inside a character
    text, _ = written(BPE, stops=["abc"])
    assert text == BPE.decode([97, 0xE4])
    a, b = BPE.encode("a")[0], BPE.encode("b")[0]
    tokens([a, b, BPE.eot, a])  # the start of a stop string
    assert written(BPE, stops=["abc"]) == ("ab", 3)
    tokens([a, b], [BPE.eot])
    assert written(BPE, stops=["b"])[0] == "a"


def test_the_other_texts_continue(params):
    how = {"max_tokens": 40, "temperature": 1.0, "seed": 1}
    short = sample(CONFIG, params, NUMBERS, num=6, **how)
    full = sample(CONFIG, params, NUMBERS, num=6, ignore_eos=True, **how)
    expected = [text.split(f"{END}")[0].rstrip() for text in (f" {text} ".replace(" 3 ", f" {END} ") for text in full)]
    assert [text.strip() for text in short] == [text.strip() for text in expected]
    assert len({len(text) for text in short}) > 3


def test_special_tokens_in_a_prompt():
    model = BPE.to_json()["model"]
    more = Bpe({**model, "added_tokens": [SPECIAL]})
    one, end = BPE.encode("one").tolist(), "<|endoftext|>"
    cases = {end: [BPE.eot], f"one{end}": [*one, BPE.eot], f"{end}{end}one": [BPE.eot, BPE.eot, *one], "one": one}
    for text, expected in cases.items():
        assert encode_special(BPE, text).tolist() == expected
    assert encode_special(more, f"one<|pad|>{end}").tolist() == [*one, 260, BPE.eot]
    assert encode_special(NUMBERS, f"5 {end} 6").tolist() == [5, END, 6]
    assert encode_special(BPE, "").size == 0
    assert BPE.eot not in BPE.encode(end)
    for tokenizer in (TOKENIZERS["byte"](""), ids(np.arange(9))):
        with pytest.raises(UserError, match="tokenizer has no special tokens: omit --special-tokens"):
            encode_special(tokenizer, end)


def test_a_prompt_with_special_tokens_is_continued(params):
    how = {"max_tokens": 5, "temperature": 0.0}
    (text,) = sample(CONFIG, params, NUMBERS, "<|endoftext|>", special_tokens=True, ignore_eos=True, **how)
    (same,) = sample(CONFIG, params, NUMBERS, ignore_eos=True, **how)
    assert text.removeprefix("<|endoftext|>").strip() == same.strip()
