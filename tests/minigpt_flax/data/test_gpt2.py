"""GPT-2's BPE against tiktoken, on a small vocabulary of its format."""

import json
import sys

import numpy as np
import pytest

from minigpt_flax.data import TOKENIZERS, load_corpus, load_tokenizer
from minigpt_flax.data.tokenizers.bpe import Bpe, byte_level
from minigpt_flax.data.tokenizers.gpt2 import from_ranks
from minigpt_flax.errors import UserError

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # tiktoken_ext's, of gpt2
TEXTS = (
    "It's a test: we've 1234 things,   and\n\n\n  more\tof them.\r\n",
    "naïve Ωμέγα 汉字 👩‍👩‍👧 🦜 \u00a0\u2028\x85 <|endoftext|> \ufeff\0",
    (load_corpus("pydocs").text or "")[50_000:150_000],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """vocab.json and merges.txt of 400 tokens, as `transformers` keeps them."""
    path = tmp_path_factory.mktemp("gpt2")
    model = TOKENIZERS["bpe"](load_corpus("pydocs").text, vocab_size=400, eot=True).to_json()["model"]["model"]
    (path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = [" ".join(pair) for pair in model["merges"]]
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    return path


def ranks(folder):
    """The same vocabulary as tiktoken has it: `bytes_to_unicode` of OpenAI's encoder.py undone."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    byte_of, n = {chr(b): b for b in visible}, 0
    for b in range(256):
        if b not in visible:
            byte_of[chr(256 + n)] = b
            n += 1
    vocab = json.loads((folder / "vocab.json").read_text())
    return {bytes(byte_of[c] for c in token): rank for token, rank in vocab.items() if rank < 399}


def test_encodes_as_tiktoken(folder):
    tiktoken = pytest.importorskip("tiktoken")
    ours = TOKENIZERS["gpt2"]("", folder=str(folder))
    theirs = tiktoken.Encoding(
        "small", pat_str=PATTERN, mergeable_ranks=ranks(folder), special_tokens={"<|endoftext|>": 399}
    )
    assert ours.eot == theirs.eot_token == 399 and ours.vocab_size == theirs.n_vocab
    for text in TEXTS:
        encoded = ours.encode(text)
        np.testing.assert_array_equal(encoded, theirs.encode_ordinary(text))
        assert ours.decode(encoded) == text


def test_tiktokens_ranks_give_the_same_merges(folder):
    tokenizers = pytest.importorskip("tokenizers")
    vocab, merges = from_ranks(ranks(folder))
    model = tokenizers.models.BPE(vocab=vocab, merges=merges)
    assert Bpe(json.loads(byte_level(model).to_str())).to_json() == TOKENIZERS["gpt2"]("", folder=str(folder)).to_json()


def test_a_run_stores_its_tokenizer(folder, tmp_path):
    tokenizer = TOKENIZERS["gpt2"]("", folder=str(folder))
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.eot == 399
    np.testing.assert_array_equal(loaded.encode(TEXTS[0]), tokenizer.encode(TEXTS[0]))


def one_line(message, **how):
    with pytest.raises(UserError, match=message) as error:
        TOKENIZERS["gpt2"]("", **how)
    assert "\n" not in str(error.value)


def test_a_folder_without_its_files(tmp_path):
    one_line("the folder lacks vocab.json and merges.txt or encoder.json", folder=str(tmp_path))


@pytest.mark.parametrize(("vocab", "merges"), [("{", "a b"), ("{}", "a b c"), ('{"a": 0, "b": 1}', "a b")])
def test_damaged_files(tmp_path, vocab, merges):
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    one_line("is damaged|no byte-level BPE", folder=str(tmp_path))


def test_without_tiktoken(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    one_line(r"needs the package tiktoken: pip install tiktoken; or give the folder .*gpt2\(folder='...'\)")


def test_without_a_network(monkeypatch, tmp_path):
    pytest.importorskip("tiktoken")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # no server there
    one_line("not in tiktoken's cache and can't be downloaded .*TIKTOKEN_CACHE_DIR")
