"""The data of a run: one tokenizer for all sources, their shares, and the hash of the data."""

import json

import numpy as np
import pytest

from minigpt_flax.data import ids
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import build
from minigpt_flax.train.config.stored import from_json, to_json
from minigpt_flax.train.dataset import load_dataset
from tests.minigpt_flax.data.made import jsonl, llmc
from tests.minigpt_flax.train.test_build import config
from tests.minigpt_flax.training import last_state, records, resume, start


@pytest.fixture
def two(tmp_path):
    """Two sources of text."""
    (tmp_path / "a.txt").write_text("abcdefgh " * 60)
    jsonl(tmp_path / "b.jsonl", ["xyz " * 40, "vw" * 70])
    return str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")


def test_several_sources_share_a_tokenizer(two):
    data = load_dataset(config(data=two, mix="3/4,1/4"))
    assert set(data.tokenizer.characters) == set("abcdefghvwxyz \n")
    batch = data.batches(8, 4, 0)(0)
    texts = [data.tokenizer.decode(row) for row in batch]
    assert sum(bool(set(text) & set("abcdefgh")) for text in texts) == 6
    sizes = [len(part.train) for part in load_dataset(config(data=two)).parts]
    assert float(load_dataset(config(data=two)).weights[0]) == pytest.approx(sizes[0] / sum(sizes), abs=1e-4)


@pytest.mark.slow
def test_a_mixture_resumes_exactly_and_validates_each(tmp_path, two):
    sources = [f"--data={source}" for source in two]
    assert start(tmp_path / "whole", *sources, "--mix=0.7,0.3", data=two[0]) == 2  # the first is given twice
    settings = {"steps": 16, "schedule": "constant"}
    for name, more in (("whole", ()), ("parts", ("--stop-after", 5))):
        assert start(tmp_path / name, sources[1], "--mix=0.7,0.3", *more, data=two[0], **settings) == 0
    assert resume(tmp_path / "parts") == 0
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert last_state(tmp_path / "parts") == last_state(tmp_path / "whole")
    last = [line for line in records(tmp_path / "whole") if "val_loss" in line][-1]
    each = [last[f"val_loss/{name}"] for name in ("a.txt", "b.jsonl")]
    assert last["val_loss"] == pytest.approx(0.7 * each[0] + 0.3 * each[1], rel=1e-6)


def test_configurations_of_version_1_are_read():
    old = json.loads(to_json(config())) | {"data": "pydocs"}
    del old["mix"], old["version"]
    assert from_json(json.dumps(old), "config").config.data == ("pydocs",)


def test_any_changed_source_is_refused(two):
    first = load_dataset(config(data=two))
    with open(two[1], "a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(UserError, match="has changed since this run began"):
        load_dataset(config(data=two), tokenizer=first.tokenizer, data_hash=first.sha256)


def test_tokens_of_a_known_tokenizer(tmp_path):
    np.frombuffer(b"some text " * 30, np.uint8).astype("<u2").tofile(tmp_path / "bytes.bin")
    data = load_dataset(config(data=str(tmp_path / "bytes.bin"), tokenizer="byte"))
    assert data.tokenizer.name == "byte" and data.parts[0].val_size == (30, 30)
    assert load_dataset(config(data=str(tmp_path / "bytes.bin"))).tokenizer.name == "ids"


def test_llmc_files_say_their_vocabulary(tmp_path):
    llmc(tmp_path / "a.bin", np.arange(100))
    tokenizer = load_dataset(config(data=str(tmp_path / "a.bin"))).tokenizer
    assert (tokenizer.vocab_size, tokenizer.eot) == (50257, 50256)
    llmc(tmp_path / "a.bin", [*range(100), 60000])
    run = build(config(data=str(tmp_path / "a.bin")))
    with pytest.raises(UserError, match="contains the token 60000, but the tokenizer has only 50257"):
        run.evaluate(run.init().params)


def test_no_common_tokenizer(tmp_path, two):
    np.arange(99, dtype="<u2").tofile(tmp_path / "c.bin")
    with pytest.raises(
        UserError, match=r"c.bin' consists of tokens, which can't be mixed with text.*'char'.*byte, gpt2"
    ):
        load_dataset(config(data=(two[0], str(tmp_path / "c.bin"))))
    assert len(load_dataset(config(data=(two[0], str(tmp_path / "c.bin")), tokenizer="byte")).parts) == 2
    with pytest.raises(UserError, match="is not a token: the data of this run consists of tokens"):
        load_dataset(config(data=two[0]), tokenizer=ids(np.arange(5)))
