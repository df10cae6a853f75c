"""Tests for `minigpt_flax.train.precision` and the other choices of how a run computes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.console import summary
from minigpt_flax.errors import UserError
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.optimizer import build_optimizer
from minigpt_flax.train.precision import require
from tests.minigpt_flax.training import ROOT

SIZES = {"layers": 2, "heads": 2, "width": 16, "context": 8, "batch_size": 4, "steps": 20, "schedule": "constant"}


def config(**changes):
    return resolve({"data": str(ROOT / "LICENSE"), **SIZES, **changes}, "nano")


def trained(run, steps=20):
    state, losses = run.init(), []
    for step in range(steps):
        state, metrics = run.step(state, run.batches(step))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.slow
def test_every_dtype_trains_alike():
    exact = trained(build(config()))[1]
    for spec, kept in (("bfloat16", "float32"), ("bfloat16(params='master')", "bfloat16")):
        state, losses = trained(build(config(dtype=spec)))
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype(kept)}
        np.testing.assert_allclose(losses, exact, rtol=0.01)


def test_stochastic_rounding_keeps_no_second_copy():
    run = build(config(dtype="bfloat16(params='stochastic')"))
    state = jax.eval_shape(run.init)
    wide = [leaf.size for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.float32 and leaf.ndim]
    assert sum(wide) == 2 * sum(leaf.size for leaf in jax.tree.leaves(run.shapes))  # AdamW's moments and nothing more


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "bfloat16(params='stochastic')"}, {"wrap": ("low_precision(moments='bfloat16', min_size=0)",)}],
    ids=str,
)
def test_the_seed_of_a_run_reaches_stochastic_rounding(changes):
    _, tx = build_optimizer(config(clip="none", lr=1e-3, opt="adam", **changes), None)
    params = {"w": jnp.linspace(0.1, 1.0, 4096, dtype="bfloat16" if "dtype" in changes else "float32").reshape(64, 64)}

    def step(seed):
        key = jax.random.fold_in(jax.random.key(seed), 0)  # as in a step of a run
        return tx.update(params, tx.init(params), params, value=jnp.float32(0), key=key, observed=True)

    same, again, other = map(jax.jit(step), (0, 0, 1))
    chex.assert_trees_all_equal(same, again)
    assert any(
        np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (same, other)), strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat17"}, r"no dtype is called 'bfloat17' \(did you mean 'bfloat16'\?\)"),
        ({"dtype": "bfloat16(params='exact')"}, "params='exact' is unknown: give one of float32, master, stochastic"),
        ({"attention": "flash"}, "no attention is called 'flash'"),
        ({"remat": "half"}, "unknown remat 'half'"),
        ({"loss_chunk": -1}, "--loss-chunk must be at least 0, got -1"),
        ({"document_mask": True}, "--document-mask needs an end-of-text token, which the char tokenizer lacks"),
    ],
)
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(config(**changes))
    assert "\n" not in str(error.value)


def test_a_type_that_the_device_does_not_multiply():
    with pytest.raises(UserError, match="--dtype int2: cpu does not support .* in int2; use --dtype float32"):
        require("int2")


def test_the_summary_shows_dtype_attention_and_remat():
    changes = {"attention": "cudnn", "remat": "full", "scan_layers": True, "dtype": "bfloat16"}
    output = summary._compute(build(config(**changes)))
    assert " ".join(output.split()) == (
        "bfloat16, plain attention (cudnn requires a gpu, this is a cpu), remat full, loop over layers"
    )


def test_documents_are_separated_by_the_tokenizers_end_of_text():
    run = build(config(tokenizer="bpe(vocab_size=300, eot=True)", document_mask=True))
    assert run.model.end_of_text == run.tokenizer.eot is not None
    plain = build(dataclasses.replace(run.config, document_mask=False))
    batch = np.array(run.batches(0))
    batch[:, 4] = run.tokenizer.eot
    (_, apart), (_, together) = (r.step(r.init(), batch) for r in (run, plain))
    assert apart["loss"] != together["loss"]
