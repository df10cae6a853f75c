"""``prepare``: what it makes trains like the source itself; whole or not there at all; mistakes in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minigpt_flax import progress
from minigpt_flax.__main__ import main
from minigpt_flax.data import TOKENIZERS, load_corpus, prepared
from minigpt_flax.errors import UserError
from minigpt_flax.train.dataset import load_dataset
from tests.minigpt_flax.data.made import jsonl, llmc
from tests.minigpt_flax.train.test_build import config
from tests.minigpt_flax.training import ROOT, TINY

LICENSE = str(TINY["data"])


def prepare(source, out, tokenizer="char"):
    return main(["prepare", str(source), "--out", str(out), "--tokenizer", tokenizer])


def tokens(dataset):
    return [np.asarray(each) for part in dataset.parts for each in (part.train, part.val)]


@pytest.mark.parametrize("spec", ["char", "byte", "bpe(vocab_size=300)", "bpe(vocab_size=300, eot=True)"])
@pytest.mark.parametrize("kind", ["file", "documents"])
def test_trains_like_the_source_itself(tmp_path, capfd, spec, kind):
    source = LICENSE if kind == "file" else str(jsonl(tmp_path / "a.jsonl", Path(LICENSE).read_text().split("\n\n")))
    assert prepare(source, tmp_path / "out", spec) == 0
    said = capfd.readouterr().out
    direct = load_dataset(config(data=source, tokenizer=spec))
    mapped = load_dataset(config(data=str(tmp_path / "out")))
    for one, other in zip(tokens(direct), tokens(mapped), strict=True):
        np.testing.assert_array_equal(one, other)
    assert mapped.tokenizer.to_json() == direct.tokenizer.to_json()
    assert mapped.parts[0].val_size == direct.parts[0].val_size
    assert f"{len(direct.parts[0].train):,} training" in said and mapped.sha256 in said
    np.testing.assert_array_equal(direct.batches(4, 8, 0)(5), mapped.batches(4, 8, 0)(5))


def test_tokens_are_mapped_and_not_loaded(tmp_path):
    assert prepare("pydocs", tmp_path / "out", "byte") == 0
    corpus = load_corpus(str(tmp_path / "out"))
    assert corpus.tokens is not None
    part = corpus.tokens._parts[0]
    assert isinstance(part, np.memmap) and not part.flags.writeable and part.dtype == np.uint16


def test_llmc_shards_become_one_file(tmp_path):
    for number in range(3):
        llmc(tmp_path / f"train_{number}.bin", np.arange(10) + number)
    llmc(tmp_path / "val_0.bin", [50256, 1])
    assert prepare(tmp_path, tmp_path / "out") == 0
    corpus = load_corpus(str(tmp_path / "out"))
    assert np.asarray(corpus.tokens).tolist() == [i + n for n in range(3) for i in range(10)]
    assert np.asarray(corpus.val_tokens).tolist() == [50256, 1]
    assert corpus.tokenizer is not None and (corpus.tokenizer.vocab_size, corpus.tokenizer.eot) == (50257, 50256)


def test_large_vocabularies_take_four_bytes(tmp_path):
    llmc(tmp_path / "llama.bin", np.arange(70_000, 70_100), magic=20240801, version=7, dtype="<u4")
    assert prepare(tmp_path / "llama.bin", tmp_path / "out") == 0
    corpus = load_corpus(str(tmp_path / "out"))
    assert corpus.tokens is not None and corpus.tokens.dtype == np.uint32
    assert np.asarray(corpus.tokens).tolist() == list(range(70_000, 70_090))


def test_validation_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "MAX_VAL_TOKENS", 100)
    assert prepare(LICENSE, tmp_path / "out", "byte") == 0
    assert len(load_corpus(str(tmp_path / "out")).val_tokens or ()) == 100


@pytest.mark.parametrize("damage", ["cut", "changed", "no meta", "bad meta", "no tokenizer"])
def test_damage_is_seen(tmp_path, damage):
    out = tmp_path / "out"
    assert prepare(LICENSE, out, "byte") == 0
    train = out / "train.bin"
    if damage == "cut":
        train.write_bytes(train.read_bytes()[:-2])
    elif damage == "changed":
        train.write_bytes(b"\1\0" + train.read_bytes()[2:])
    elif damage == "no tokenizer":
        (out / "tokenizer.json").unlink()
    else:
        (out / "tokens.json").write_text("{}" if damage == "bad meta" else "")
    with pytest.raises(UserError, match="prepare the data again|can't read .*tokenizer.json") as error:
        load_corpus(str(out))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "spec", "says"),
    [
        ("nothing", "char", "no corpus and no file or folder 'nothing'"),
        ("{tmp}/*.txt", "char", "no file matches"),
        (LICENSE, "words", "no tokenizer is called 'words'"),
        (LICENSE, "char(x=1)", "has no keyword 'x'"),
        ("{tmp}/bad.jsonl", "byte", "line 2, is not JSON"),
        ("{tmp}/bad.jsonl", "char", "line 2, is not JSON"),
        ("{tmp}/short.jsonl", "byte", "too few"),
        ("{tmp}/blank.jsonl", "char", "has no text: give another file"),
        ("{tmp}/big.bin", "byte", "contains the token 9999, but the tokenizer has only 256"),
    ],
)
def test_a_mistake_leaves_nothing(tmp_path, capfd, source, spec, says):
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"text\n')
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n')
    np.array([1, 9999], "<u2").tofile(tmp_path / "big.bin")
    assert prepare(source.format(tmp=tmp_path), tmp_path / "out", spec) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_what_is_there_stays(tmp_path, capfd):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("mine")
    assert prepare(LICENSE, tmp_path / "out", "byte") == 2
    assert "out.partial exists and was not made by this program" in capfd.readouterr().err
    (tmp_path / "out.partial" / "mine.txt").unlink()
    assert prepare(LICENSE, tmp_path / "out", "byte") == 0
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert prepare(LICENSE, tmp_path / "out", "byte") == 2
    assert "out exists already" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_in_the_middle_it_leaves_nothing_that_looks_whole(tmp_path, number):
    source = tmp_path / "pipe.txt"
    source.write_text("some words of text\n" * 400_000)
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from minigpt_flax.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "prepare", str(source), "--out", str(tmp_path / "out"), "--tokenizer", "bpe"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE)
    while process.poll() is None and not (tmp_path / "out.partial").exists():
        time.sleep(0.001)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), err
    assert not (tmp_path / "out").exists() and b"Traceback" not in err
    left = tmp_path / "out.partial"
    assert left.exists() is (number == signal.SIGKILL)
    if left.exists():
        with pytest.raises(UserError, match="has no text"):
            load_corpus(str(left))


def test_screen_is_80_columns(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare("pydocs", "out", "bpe(eot=True)") == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.fullmatch(r"next       python .*train(\.py)? --data out", lines[-1])
    assert json.loads((tmp_path / "out" / "tokens.json").read_text())["source"] == "pydocs"


def test_a_long_training_of_the_tokenizer_shows_that_it_works(tmp_path, capfd, monkeypatch):
    """Without a terminal there is a line now and then: the merges are computed after all text is read."""
    learn = TOKENIZERS["byte"]
    monkeypatch.setattr(progress, "FIRST_LINE", 0.01)
    monkeypatch.setitem(TOKENIZERS, "byte", lambda text: (time.sleep(0.2), learn(text))[1])
    assert prepare(LICENSE, tmp_path / "out", "byte") == 0
    assert re.search(r"^training the tokenizer byte \.\.\. \d+ s$", capfd.readouterr().out, re.MULTILINE)
    assert main(["prepare", str(LICENSE), "--out", str(tmp_path / "quiet"), "--tokenizer", "byte", "--json"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1
