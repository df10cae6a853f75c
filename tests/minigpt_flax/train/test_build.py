"""From specs to objects."""

import jax
import numpy as np
import pytest

from jaxopt_mini import OPTIMIZERS
from minigpt_flax.data import load_tokenizer
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import default_of, resolve
from minigpt_flax.train.optimizer import decay_mask
from tests.minigpt_flax.training import TINY


def config(**changes):
    given = {name.replace("-", "_"): value for name, value in TINY.items() if name != "preset"}
    return resolve(given | {"data": str(TINY["data"])} | changes, "nano")


def test_decay_touches_matrices_and_embeddings_only():
    run = build(config(bias=True))
    decayed = {
        jax.tree_util.keystr(p, simple=True, separator="/"): d
        for p, d in jax.tree.leaves_with_path(decay_mask(run.layout))
    }
    shapes = {
        jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape
        for p, leaf in jax.tree.leaves_with_path(jax.eval_shape(run.init).params)
    }
    axes = {name: len(shape) - name.startswith("blocks/") for name, shape in shapes.items()}  # blocks are stacked
    assert decayed == {name: count == 2 for name, count in axes.items()}  # nanoGPT's rule, by its names


def test_tokenizer_and_hash_of_a_run_are_used(tmp_path):
    first = build(config(tokenizer="bpe(vocab_size=300)"))
    first.tokenizer.save(tmp_path)
    again = build(first.config, tokenizer=load_tokenizer(tmp_path), data_hash=first.data.sha256)
    assert np.array_equal(again.data.parts[0].train, first.data.parts[0].train)
    with pytest.raises(UserError, match="has changed since this run began"):
        build(first.config, data_hash="0" * 64)


def test_tokens_need_no_tokenizer(tmp_path):
    np.arange(1000, dtype="<u2").tofile(tmp_path / "data.bin")
    run = build(config(data=str(tmp_path / "data.bin")))
    assert run.tokenizer.name == "ids" and run.model.vocab_size == 1000
    assert len(run.data.parts[0].train) == 900


def test_clip_none_leaves_the_optimizer_alone():
    clipped, plain = (jax.eval_shape(build(config(clip=clip)).init).opt_state for clip in ("clip_by_norm(1.0)", "none"))
    assert jax.tree.leaves(clipped[0]) and not jax.tree.leaves(plain[0])
    assert clipped[1] == plain[1]


NOT_SWEPT = {  # new since the last ``python -m benchmarks.rates``: they have the learning rate of the preset
    *("adamuon", "amuse", "apollo", "aurora", "dion2", "gpa_adamw", "muown", "polargrad", "psgd"),
    *("schedule_free_plus", "schedule_free_radam", "splus"),
    *("kl_soap", "ldadam", "soap_muon"),
}


def test_open_arguments_are_the_defaults_of_the_optimizer():
    for name in OPTIMIZERS.keys() - NOT_SWEPT:
        found, default = resolve({"opt": name}, "nano"), default_of(name)
        assert found.lr == default.keywords["lr"]
        assert default.without("lr").keywords.items() <= found.opt.keywords.items()
    assert resolve({"opt": "lion(b1=0.5)", "lr": 0.1}, "nano").lr == 0.1


def test_a_preset_sets_the_learning_rate():
    assert resolve({}, "nanogpt").lr == resolve({"opt": "adamw(b1=0.8)"}, "nanogpt").lr == 1e-3
    nano, nanogpt = (vars(resolve({}, preset)) for preset in ("nano", "nanogpt"))
    assert nano | {"lr": 1e-3} == nanogpt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opt": "addamw"}, r"no optimizer is called 'addamw' \(did you mean 'adamw'\?\)"),
        ({"opt": "adamw(beta2=0.9)"}, "has no keyword 'beta2'"),
        ({"opt": "adamw(b1=1.0)"}, "b1"),
        ({"schedule": "warmup_cosine(warmup=100)"}, "warmup"),
        ({"clip": "clip_by_norm(-1.0)"}, "threshold"),
        ({"tokenizer": "words"}, "no tokenizer is called 'words'"),
        ({"probe": ("nroms",)}, r"no probe is called 'nroms' \(did you mean 'norms'\?\)"),
        ({"heads": 3}, "heads=3 does not divide width=16"),
        ({"context": 20_000}, "context"),
        ({"data": "no-such-file"}, "no-such-file"),
    ],
)
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(config(**changes))
    assert "\n" not in str(error.value)
