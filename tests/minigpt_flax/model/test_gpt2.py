"""Tests for `minigpt_flax.model.gpt2`: recorded GPT-2 and nanoGPT numbers, and what does not fit."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import generate
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.gpt2 import from_gpt2, to_gpt2
from minigpt_flax.model.loss import cross_entropy

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
GPT2 = ModelConfig(vocab_size=96, context=64, layers=3, heads=4, width=48, bias=True, mlp="gelu_tanh")
NANOGPT = ModelConfig(vocab_size=65, context=32, layers=2, heads=4, width=64)
TINY = ModelConfig(vocab_size=5, context=3, layers=1, heads=1, width=4, bias=True)


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "gpt2" / "model.safetensors")


@pytest.fixture(scope="module")
def expected():
    return np.load(GOLDEN / "gpt2" / "expected.npz")


def mean_loss(config, params, inputs, targets):
    logits = apply(config, params, inputs)
    total, count = cross_entropy(logits, targets)
    return total / count, logits


def global_norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def test_gpt2_logits_loss_and_gradients_are_hugging_faces(tensors, expected):
    tokens = jnp.asarray(expected["tokens"])
    loss = jax.jit(jax.value_and_grad(functools.partial(mean_loss, GPT2), has_aux=True))
    (value, logits), gradient = loss(from_gpt2(tensors, GPT2), tokens[:, :-1], tokens[:, 1:])
    np.testing.assert_allclose(logits, expected["logits"][:, :-1], atol=1e-4)
    np.testing.assert_allclose(value, expected["loss"], atol=1e-5)
    np.testing.assert_allclose(global_norm(gradient), expected["grad_norm"], rtol=1e-5)
    for name, leaf in to_gpt2(gradient, GPT2).items():
        np.testing.assert_allclose(global_norm(leaf), expected[f"grad_norm/{name}"], rtol=1e-4, err_msg=name)


def test_gpt2_greedy_text_is_hugging_faces(tensors, expected):
    prompt = expected["prompt"]
    text = generate(GPT2, from_gpt2(tensors, GPT2), prompt, jax.random.key(0), max_tokens=24, temperature=0.0)
    np.testing.assert_array_equal(text, expected["greedy"][:, prompt.shape[1] :])


def test_there_and_back_changes_nothing(tensors):
    back = to_gpt2(from_gpt2(tensors, GPT2), GPT2)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.parametrize("bias", [False, True])
def test_nanogpts_first_loss_and_gradient(bias, draw):
    config = dataclasses.replace(NANOGPT, bias=bias)
    # The recording leaves out the biases, which start at zero.
    empty = to_gpt2(draw(config, 0.0), config)
    params = from_gpt2(empty | dict(np.load(GOLDEN / "nanogpt" / "init.npz")), config)
    batch = jnp.asarray(np.load(GOLDEN / "nanogpt" / "batches.npz")["tokens"][0])
    run = np.load(GOLDEN / "nanogpt" / f"train_bias_{str(bias).lower()}.npz")
    loss = jax.jit(jax.value_and_grad(functools.partial(mean_loss, config), has_aux=True))
    (value, _), gradient = loss(params, batch[:, :-1], batch[:, 1:])
    np.testing.assert_allclose(value, run["loss"][0], atol=2e-6)
    np.testing.assert_allclose(global_norm(gradient), run["grad_norm"][0], rtol=1e-5)


def test_recorded_settings_are_those_used_here():
    recorded = json.loads((GOLDEN / "nanogpt" / "nanogpt.json").read_text())["model"]
    assert recorded == {
        "n_layer": NANOGPT.layers,
        "n_head": NANOGPT.heads,
        "n_embd": NANOGPT.width,
        "block_size": NANOGPT.context,
        "vocab_size": NANOGPT.vocab_size,
        "dropout": NANOGPT.dropout,
    }


@pytest.fixture(scope="module")
def tiny(draw):
    return to_gpt2(draw(TINY), TINY)


def test_other_spellings_of_the_same_checkpoint(tiny):
    plain = {name.removeprefix("transformer."): tensor for name, tensor in tiny.items()}
    plain |= {"h.0.attn.bias": np.tri(3)[None, None], "h.0.attn.masked_bias": np.array(-1e4)}
    plain |= {"lm_head.weight": plain["wte.weight"]}
    jax.tree.map(np.testing.assert_array_equal, from_gpt2(plain, TINY), from_gpt2(tiny, TINY))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wpe.weight": None}, ["wpe.weight is missing"]),
        ({"h.1.ln_1.weight": np.ones(4)}, ["h.1.ln_1.weight is not part of this model"]),
        ({"lm_head.weight": np.ones((5, 4))}, ["lm_head.weight is not part of this model"]),
        ({"h.0.attn.c_attn.bias": np.ones(4)}, ["h.0.attn.c_attn.bias is (4,) instead of (12,)"]),
        ({"ln_f.bias": None, "wte.weight": np.ones((6, 4))}, ["ln_f.bias is missing", "(6, 4) instead of (5, 4)"]),
    ],
)
def test_every_tensor_that_does_not_fit_is_named(tiny, change, says):
    changed = tiny | {f"transformer.{name}": tensor for name, tensor in change.items()}
    with pytest.raises(UserError) as error:
        from_gpt2({name: tensor for name, tensor in changed.items() if tensor is not None}, TINY)
    assert all(part in str(error.value) for part in says)


@pytest.mark.parametrize(
    "parts",
    [
        {"norm": "rmsnorm"},
        {"position": "rope"},
        {"mlp": "swiglu"},
        {"tie_head": False},
        {"qk_norm": True},
        {"attention_scale": 0.12},
        {"embedding_norm": True},
        {"head_bias": True},
        {"softcap": 1.0},
        {"heads": 2, "kv_heads": 1},
    ],
    ids=str,
)
def test_models_that_the_format_cannot_hold_are_refused(parts):
    config = dataclasses.replace(TINY, **parts)
    with pytest.raises(UserError, match="GPT-2's format cannot hold this model: "):
        from_gpt2({}, config)
    with pytest.raises(UserError, match="GPT-2's format cannot hold this model: "):
        to_gpt2({}, config)
