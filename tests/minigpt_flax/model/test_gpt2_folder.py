"""Tests for `minigpt_flax.model.gpt2_folder`: a folder read, written, read again; and by `transformers` itself."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.gpt2_folder import load_gpt2, save_gpt2
from tests.minigpt_flax.model.test_gpt2 import GOLDEN, GPT2

NANO = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, hidden=24)


def test_the_recorded_folder_is_read_as_it_was_described():
    config, params = load_gpt2(GOLDEN / "gpt2")
    assert config == GPT2
    expected = np.load(GOLDEN / "gpt2" / "expected.npz")
    logits = apply(config, params, jnp.asarray(expected["tokens"]))
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def test_written_again_it_is_the_same_folder(tmp_path):
    config, params = load_gpt2(GOLDEN / "gpt2")
    save_gpt2(tmp_path, params, config)
    before, after = (load_file(folder / "model.safetensors") for folder in (GOLDEN / "gpt2", tmp_path))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    theirs, ours = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / "gpt2", tmp_path))
    changed = {"n_inner": 4 * 48, "bos_token_id": None, "eos_token_id": None}
    assert {name: theirs[name] for name in ours} | changed == ours


def test_a_model_without_biases_comes_back_with_zeros_and_the_same_logits(tmp_path, draw):
    params, tokens = draw(NANO, 0.3), jnp.arange(8)[None]
    save_gpt2(tmp_path, params, NANO)
    config, back = load_gpt2(tmp_path)
    assert (config.bias, config.mlp, config.hidden) == (True, "gelu", 24)
    np.testing.assert_array_equal(back["blocks"]["mlp"]["up"]["bias"], 0)
    np.testing.assert_allclose(apply(config, back, tokens), apply(NANO, params, tokens), atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_transformers_loads_it_with_the_same_logits(tmp_path, bias, draw):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=bias, mlp="gelu_tanh")
    params, tokens = draw(config, 0.3), np.arange(8)[None]
    save_gpt2(tmp_path, params, config)
    model, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(apply(config, params, jnp.asarray(tokens)), theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", None, "can't read .*config.json: No such file"),
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json is damaged"),
        ("config.json", '{"model_type": "llama"}', "does not describe a GPT-2: model_type='llama'"),
        ("config.json", '{"n_embd": 4}', "config.json has no field 'vocab_size'"),
        ("model.safetensors", None, "can't read .*model.safetensors"),
        ("model.safetensors", "x", "model.safetensors is damaged"),
    ],
)
def test_damaged_folders_are_named(tmp_path, name, content, says):
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2" / name).unlink()
    if content is not None:
        (tmp_path / "gpt2" / name).write_text(content)
    with pytest.raises(UserError, match=says):
        load_gpt2(tmp_path / "gpt2")
