"""Weights in every form: sharded, of torch.save, untied, nanoGPT's; each field of a config; hostile pickles."""

import contextlib
import json
import os
import pickle
import shutil
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.huggingface import (
    ACTIVATIONS,
    LINEAR,
    SAME_ACTIVATION,
    load_gpt2,
    load_nanogpt,
    save_gpt2,
    to_gpt2,
)
from minigpt_flax.model.torch_file import StoredTensor, read_torch_file
from minigpt_flax.train.initial_weights import initial_weights

CONFIG = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=True, mlp="gelu_tanh")
UNTIED = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=True, tie_head=False)
TOKENS = jnp.arange(8)[None]


class Storage:
    """What a tensor's data is in a pickle of PyTorch."""

    def __init__(self, array):
        self.array = array


class Rebuilt:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, array, offset=0, stride=None, kind="FloatStorage"):
        self.array, self.offset, self.kind = array, offset, kind
        self.stride = stride or tuple(step // array.itemsize for step in array.strides)

    def __reduce__(self):
        call = sys.modules["torch._utils"]._rebuild_tensor_v2
        storage = Storage(self)
        return call, (storage, self.offset, self.array.shape, self.stride, False, None)


@contextlib.contextmanager
def names_of_torch():
    """Modules that have PyTorch's names, for the pickler."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = lambda *args: None
    utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kinds = ("FloatStorage", "LongStorage", "HalfStorage")
    for kind in kinds:
        setattr(torch, kind, type(kind, (), {"__module__": "torch", "__qualname__": kind}))
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.__setitem__(name, module)


def torch_save(path, value, extra=()):
    """Write a file as torch.save does, without PyTorch; arrays are tensors."""
    with names_of_torch() as torch, zipfile.ZipFile(path, "w") as archive:
        arrays = []

        class Pickler(pickle.Pickler):
            def reducer_override(self, obj):
                return Rebuilt(obj).__reduce__() if isinstance(obj, np.ndarray) else NotImplemented

            def persistent_id(self, obj):
                if not isinstance(obj, Storage):
                    return None
                arrays.append(obj.array.array)
                kind = getattr(torch, obj.array.kind)
                return ("storage", kind, str(len(arrays) - 1), "cpu", arrays[-1].size)

        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump(value)
        archive.writestr("archive/byteorder", b"little")
        for number, array in enumerate(arrays):
            archive.writestr(f"archive/data/{number}", np.ascontiguousarray(array).tobytes())
        for name, content in extra:
            archive.writestr(name, content)


@pytest.fixture(params=[CONFIG, UNTIED], ids=["tied", "untied"])
def saved(request, tmp_path, draw):
    params = draw(request.param, 0.3)
    (tmp_path / "whole").mkdir()
    save_gpt2(tmp_path / "whole", params, request.param)
    return tmp_path / "whole", request.param, params


def as_shards(folder, tensors):
    names = sorted(tensors)
    parts = {f"model-{i}-of-3.safetensors": names[i::3] for i in range(3)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def as_torch_shards(folder, tensors):
    names = sorted(tensors)
    for i in range(2):
        torch_save(folder / f"pytorch_model-{i}.bin", {name: tensors[name] for name in names[i::2]})
    index = {"weight_map": {name: f"pytorch_model-{i}.bin" for i in range(2) for name in names[i::2]}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


FORMS = {
    "safetensors": lambda folder, tensors: save_file(tensors, folder / "model.safetensors"),
    "half": lambda folder, tensors: save_file(
        {name: tensor.astype(jnp.bfloat16) for name, tensor in tensors.items()}, folder / "model.safetensors"
    ),
    "shards": as_shards,
    "torch.save": lambda folder, tensors: torch_save(folder / "pytorch_model.bin", tensors),
    "shards of torch.save": as_torch_shards,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_weights_is_read(saved, tmp_path, form):
    folder, config, params = saved
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "other")
    FORMS[form](tmp_path / "other", load_file(folder / "model.safetensors"))
    found, values = load_gpt2(tmp_path / "other")
    assert found.tie_head == config.tie_head
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if form == "half" else {"rtol": 0, "atol": 0}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), values, params)
    assert initial_weights(str(tmp_path / "other")).fields["tie_head"] == config.tie_head


def test_shards_are_written_and_read(saved, tmp_path):
    folder, config, params = saved
    (tmp_path / "shards").mkdir()
    save_gpt2(tmp_path / "shards", params, config, shard_bytes=2000)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = [sum(t.nbytes for t in load_file(tmp_path / "shards" / name).values()) for name in files]
    assert max(sizes) <= 2000
    jax.tree.map(np.testing.assert_array_equal, load_gpt2(tmp_path / "shards")[1], load_gpt2(folder)[1])


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"a": "../x.safetensors"}}, "files of its own folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "files of its own folder"),
        ({"weight_map": {}}, "files of its own folder"),
        ({"weight_map": {"a": 1}}, "weight_map must be text"),
        ({}, "weight_map must be an object"),
        ({"weight_map": {"a": "missing.safetensors"}}, "can't read .*missing.safetensors"),
    ],
)
def test_a_damaged_index_is_named(saved, index, says):
    folder = saved[0]
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=says):
        load_gpt2(folder)


def edited(folder, **fields):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (values | fields).items() if v != "removed"}))


def logits(folder):
    config, params = load_gpt2(folder)
    return np.asarray(apply(config, params, TOKENS))


CHANGES = {  # field -> value that changes the numbers, and is supported
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "layer_norm_epsilon": 0.1,
    "activation_function": "gelu",
    "n_head": 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_that_changes_numbers_is_read(tmp_path, draw, name):
    save_gpt2(tmp_path, draw(CONFIG, 0.5), CONFIG)
    before = logits(tmp_path)
    edited(tmp_path, **{name: CHANGES[name]})
    assert np.abs(logits(tmp_path) - before).max() > 1e-4


def test_scores_are_divided_by_the_number_of_the_layer(tmp_path, draw):
    params = draw(CONFIG, 0.5)
    save_gpt2(tmp_path, params, CONFIG)
    edited(tmp_path, scale_attn_by_inverse_layer_idx=True)
    ours, query = load_gpt2(tmp_path)[1]["blocks"]["attention"]["query"], params["blocks"]["attention"]["query"]
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(ours[name][0], query[name][0])
        np.testing.assert_allclose(ours[name][1], query[name][1] / 2)


REFUSED = {"add_cross_attention": True, "pruned_heads": {"0": [1]}, "quantization_config": {"bits": 4}}
REFUSED |= {"activation_function": "relu", "model_type": "gpt_neo"}
SAME = {"reorder_and_upcast_attn": True, "pruned_heads": {}, "add_cross_attention": False, "n_ctx": 5}
SAME |= {"n_inner": None, "activation_function": "gelu_pytorch_tanh", "summary_type": "mean", "use_cache": True}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_supported_is_named(tmp_path, draw, name):
    save_gpt2(tmp_path, draw(CONFIG), CONFIG)
    edited(tmp_path, **{name: REFUSED[name]})
    with pytest.raises(UserError, match=name.split("_")[0]):
        load_gpt2(tmp_path)


def test_fields_that_leave_the_numbers_alone(tmp_path, draw):
    save_gpt2(tmp_path, draw(CONFIG, 0.5), CONFIG)
    before = logits(tmp_path)
    edited(tmp_path, n_embd="removed", hidden_size=8, n_layer="removed", num_hidden_layers=2, **SAME)
    np.testing.assert_array_equal(logits(tmp_path), before)
    assert set(SAME_ACTIVATION.values()) <= set(ACTIVATIONS)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_scale_of_the_scores_is_exported(tmp_path, draw, scale):
    config = ModelConfig(**{**vars(CONFIG), "attention_scale": scale})
    save_gpt2(tmp_path, draw(config, 0.5), config)
    assert load_gpt2(tmp_path)[0].attention_scale == scale


@pytest.mark.parametrize("compiled", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_nanogpts_checkpoint(tmp_path, draw, bias, compiled):
    config = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=bias)
    params = draw(config, 0.3)
    tensors = {name: np.asarray(tensor) for name, tensor in to_gpt2(params, config).items()}
    tensors = {name: np.ascontiguousarray(t.T) if name.endswith(LINEAR) else t for name, t in tensors.items()}
    tensors |= {
        "lm_head.weight": tensors["transformer.wte.weight"],
        "transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), "f4"),
    }
    args = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 8, "bias": bias, "vocab_size": 11, "dropout": 0.2}
    saved = {"model": {compiled + name: t for name, t in tensors.items()}, "model_args": args, "iter_num": 5}
    torch_save(tmp_path / "ckpt.pt", saved | {"best_val_loss": np.float32([1.5]), "config": {"dataset": "x"}})
    found, values = load_nanogpt(tmp_path / "ckpt.pt")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, values, params)
    for name in (tmp_path, tmp_path / "ckpt.pt"):
        assert initial_weights(str(name)).fields["layers"] == 2


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


class Evaluated:
    def __reduce__(self):
        return eval, ("open('hacked', 'w')",)


@pytest.mark.parametrize("value", [Hostile(), {"a": Evaluated()}, {"model": Hostile(), "model_args": {}}, [os.getcwd]])
@pytest.mark.parametrize("name", ["ckpt.pt", "pytorch_model.bin"])
def test_code_in_a_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, value, name):
    monkeypatch.chdir(tmp_path)
    torch_save(tmp_path / name, value)
    with pytest.raises(UserError, match="which is no tensor, so it was not read and nothing of it was executed"):
        read_torch_file(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


DAMAGED = {
    "not a zip": lambda path: path.write_bytes(b"\x80\x02" + bytes(100)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "another zip": lambda path: zipfile.ZipFile(path, "w").close(),
    "a storage too short": lambda path: torch_save(path, Rebuilt(np.ones(4, "f4"), stride=(9,))),
    "a storage beyond its offset": lambda path: torch_save(path, Rebuilt(np.ones(4, "f4"), offset=1)),
    "a negative stride": lambda path: torch_save(path, Rebuilt(np.ones(4, "f4"), stride=(-1,))),
    "another dtype": lambda path: torch_save(path, Rebuilt(np.ones(4, "f4"), kind="LongStorage")),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_files_of_torch(tmp_path, how):
    path = tmp_path / "pytorch_model.bin"
    torch_save(path, {"a": np.ones(3, "f4")})
    assert read_torch_file(path)["a"].read().tolist() == [1, 1, 1]
    DAMAGED[how](path)
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    assert "\n" not in str(error.value)


def test_a_compressed_entry_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(UserError, match="'data.pkl' is missing or compressed"):
        read_torch_file(tmp_path / "a.bin")


def test_files_of_pytorch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    values = {"whole": base, "view": base[1:, ::2], "turned": base.T, "half": base.bfloat16(), "one": torch.tensor(3)}
    values["parameter"] = torch.nn.Parameter(base)
    torch.save(values, tmp_path / "a.bin")
    for name, part in read_torch_file(tmp_path / "a.bin").items():
        assert isinstance(part, StoredTensor)
        np.testing.assert_array_equal(part.read().astype(np.float32), values[name].detach().float().numpy())
