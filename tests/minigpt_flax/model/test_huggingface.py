"""Tests for `minigpt_flax.model.huggingface`: recorded GPT-2 and nanoGPT results, damaged files, `transformers`."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.generate import generate
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.huggingface import from_gpt2, load_gpt2, read_gpt2_config, save_gpt2, to_gpt2
from minigpt_flax.model.loss import cross_entropy
from tests.minigpt_flax.damage import FILES, damage_file, damaged_json

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
GPT2 = ModelConfig(vocab_size=96, context=64, layers=3, heads=4, width=48, bias=True, mlp="gelu_tanh")
NANOGPT = ModelConfig(vocab_size=65, context=32, layers=2, heads=4, width=64)
NANO = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, hidden=24)
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


def test_gpt2_logits_loss_and_gradients_match_hugging_face(tensors, expected):
    tokens = jnp.asarray(expected["tokens"])
    loss = jax.jit(jax.value_and_grad(functools.partial(mean_loss, GPT2), has_aux=True))
    (value, logits), gradient = loss(from_gpt2(tensors, GPT2), tokens[:, :-1], tokens[:, 1:])
    np.testing.assert_allclose(logits, expected["logits"][:, :-1], atol=1e-4)
    np.testing.assert_allclose(value, expected["loss"], atol=1e-5)
    np.testing.assert_allclose(global_norm(gradient), expected["grad_norm"], rtol=1e-5)
    for name, leaf in to_gpt2(gradient, GPT2).items():
        np.testing.assert_allclose(global_norm(leaf), expected[f"grad_norm/{name}"], rtol=1e-4, err_msg=name)


def test_gpt2_greedy_text_matches_hugging_face(tensors, expected):
    prompt = expected["prompt"]
    text = generate(GPT2, from_gpt2(tensors, GPT2), prompt, jax.random.key(0), max_tokens=24, temperature=0.0)
    np.testing.assert_array_equal(text, expected["greedy"][:, prompt.shape[1] :])


def test_round_trip_of_tensors(tensors):
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
        {"qk_norm": True},
        {"attention_scale": 0.12},
        {"embedding_scale": 2.0},
        {"residual_scale": 0.5},
        {"logit_scale": 0.25},
        {"embedding_norm": True},
        {"head_bias": True},
        {"softcap": 1.0},
        {"heads": 2, "kv_heads": 1},
    ],
    ids=str,
)
def test_unsupported_models_are_refused(parts):
    config = dataclasses.replace(TINY, **parts)
    with pytest.raises(UserError, match="the GPT-2 format cannot represent this model: "):
        from_gpt2({}, config)
    with pytest.raises(UserError, match="the GPT-2 format cannot represent this model: "):
        to_gpt2({}, config)


def test_load_recorded_folder():
    config, params = load_gpt2(GOLDEN / "gpt2")
    assert config == GPT2
    expected = np.load(GOLDEN / "gpt2" / "expected.npz")
    logits = apply(config, params, jnp.asarray(expected["tokens"]))
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)


def test_round_trip_of_a_folder(tmp_path):
    config, params = load_gpt2(GOLDEN / "gpt2")
    save_gpt2(tmp_path, params, config)
    before, after = (load_file(folder / "model.safetensors") for folder in (GOLDEN / "gpt2", tmp_path))
    assert before.keys() == after.keys()
    jax.tree.map(np.testing.assert_array_equal, before, after)
    theirs, ours = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / "gpt2", tmp_path))
    changed = {"n_inner": 4 * 48, "bos_token_id": None, "eos_token_id": None}
    assert {name: theirs[name] for name in ours} | changed == ours


def test_missing_biases_are_written_as_zeros(tmp_path, draw):
    params, tokens = draw(NANO, 0.3), jnp.arange(8)[None]
    save_gpt2(tmp_path, params, NANO)
    config, back = load_gpt2(tmp_path)
    assert (config.bias, config.mlp, config.hidden) == (True, "gelu", 24)
    np.testing.assert_array_equal(back["blocks"]["mlp"]["up"]["bias"], 0)
    np.testing.assert_allclose(apply(config, back, tokens), apply(NANO, params, tokens), atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tie_head", [True, False])
def test_factors_are_multiplied_into_the_weights(tmp_path, bias, tie_head, draw):
    factors = {"embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 0.25, "attention_scale": 0.2}
    config = dataclasses.replace(TINY, bias=bias, tie_head=tie_head, **factors)
    params, tokens = draw(config, 0.3), jnp.arange(TINY.context)[None] % TINY.vocab_size
    save_gpt2(tmp_path, params, config)
    read, back = load_gpt2(tmp_path)
    assert (read.embedding_scale, read.residual_scale, read.logit_scale, read.attention_scale) == (1.0, 1.0, 1.0, None)
    np.testing.assert_allclose(apply(read, back, tokens), apply(config, params, tokens), atol=1e-5)
    plain = dataclasses.replace(TINY, bias=bias, tie_head=tie_head)
    assert not np.allclose(apply(plain, params, tokens), apply(config, params, tokens), atol=1e-2)


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


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "gpt2", copy_function=shutil.copyfile)
    return tmp_path / "gpt2"


def refused(folder):
    """Whether loading a folder fails with one short line; any other exception fails the test."""
    try:
        load_gpt2(folder)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000, error
        return True
    return False


READ = {"model_type", "vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "layer_norm_epsilon", "n_inner"}
READ |= {"activation_function", "tie_word_embeddings", "scale_attn_weights"}


def test_every_damaged_field_of_a_config(folder):
    values = json.loads((folder / "config.json").read_text())
    answers = {}
    for how, other in damaged_json({name: value for name, value in values.items() if name in READ}):
        (folder / "config.json").write_text(json.dumps(other))
        answers[how] = refused(folder)
    taken = {how for how, answer in answers.items() if not answer}
    optional = {f"{name} removed" for name in ("model_type", "tie_word_embeddings", "scale_attn_weights")}
    optional |= {"activation_function removed", "n_inner removed", " with an unknown field", "n_inner = None"}
    optional |= {f"layer_norm_epsilon = {value}" for value in ("1.5", "1000000000")}
    assert len(answers) > 100 and taken <= optional, taken - optional


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", FILES)
def test_every_damaged_file(folder, name, how):
    damage_file(folder / name, how)
    assert refused(folder)


def header(folder, change, length=None):
    """Rewrite the weights with a changed header, and sparse zeros up to its original length."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    values = json.loads(content[8 : 8 + size])
    text = json.dumps(change(values)).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + content[8 + size :])


def first(values, **fields):
    name = next(name for name in values if name != "__metadata__")
    return values | {name: values[name] | fields}


HEADERS = {
    "no tensors": lambda v: {},
    "a tensor more": lambda v: v | {"more\n\x1b[31m": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "ten thousand more": lambda v: (
        v | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**4)}
    ),
    "whole numbers": lambda v: first(v, dtype="I32"),
    "bfloat16": lambda v: first(v, dtype="BF16"),
    "no type": lambda v: first(v, dtype="O"),
    "a type of another width": lambda v: first(v, dtype="F64"),
    "a large shape": lambda v: first(v, shape=[2**40, 2**40]),
    "a negative shape": lambda v: first(v, shape=[-1, 4]),
    "a shape of text": lambda v: first(v, shape="ab"),
    "overlapping": lambda v: first(v, data_offsets=[4, 8]),
    "beyond the file": lambda v: first(v, data_offsets=[0, 2**60]),
    "backwards": lambda v: first(v, data_offsets=[100, 0]),
    "a list": lambda v: [v],
    "nested": lambda v: v | {"deep": json.loads("[" * 500 + "]" * 500)},
}


@pytest.mark.parametrize("case", HEADERS)
def test_every_damaged_header(folder, case):
    header(folder, HEADERS[case])
    assert refused(folder)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_the_length_of_the_header(folder, length):
    header(folder, lambda values: values, length)
    assert refused(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_layer": 10**9},
        {"n_layer": 10**4},
        {"vocab_size": 10**9},
        {"n_embd": 10**9, "n_head": 1},
        {"n_embd": 10**5, "n_head": 1},
        {"n_head": 10**9},
        {"n_positions": 10**6},
        {"n_inner": 10**6},
    ],
    ids=str,
)
def test_sizes_are_checked_against_the_weights_before_allocation(folder, sizes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | sizes))
    with pytest.raises(UserError, match="is damaged, or of another model|must be from 1 to"):
        read_gpt2_config(folder)


def test_a_sparse_file_is_not_read(folder):
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1 << 42)
    assert refused(folder)


def test_weights_that_are_not_finite_are_read(folder, draw):
    config, params = load_gpt2(folder)
    params["final_norm"]["scale"] = params["final_norm"]["scale"] * np.nan
    save_gpt2(folder, params, config)
    assert np.isnan(load_gpt2(folder)[1]["final_norm"]["scale"]).all()
