"""``export``: what is written is the run's model; mistakes in one line."""

import errno
import json
import os
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import states
from minigpt_flax.__main__ import main
from minigpt_flax.data import TOKENIZERS
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.huggingface import load_gpt2
from minigpt_flax.model.nanogpt import check_nanogpt
from minigpt_flax.model.torch_file import read_torch_file
from minigpt_flax.runs.files import MARKER
from minigpt_flax.runs.folder import RunFolder
from minigpt_flax.train.config.run_config import RunConfig, resolve
from minigpt_flax.train.exported_optimizer import check_adamw
from minigpt_flax.train.initial_optimizer import load_optimizer, replaced
from minigpt_flax.train.initial_weights import initial_weights
from minigpt_flax.train.restore import TrainedModel, restore, restore_state

FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_the_folder_holds_the_runs_model(trained, tmp_path, capfd):
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert "config.json, model.safetensors, tokenizer.json, tokenizer_config.json, of step " in capfd.readouterr().out
    ours = restore(trained).params
    config, params = load_gpt2(tmp_path / "out")
    assert config.vocab_size == restore(trained).model.vocab_size
    for path, leaf in jax.tree.leaves_with_path(ours):
        found = params
        for part in path:
            found = found[part.key]
        np.testing.assert_array_equal(found, leaf)


def test_nanogpts_checkpoint_read_back_gives_the_same_state(trained, tmp_path, capfd):
    """So the next steps are the same. nanoGPT itself continues as this run does: losses of 20 steps within 1e-6."""
    assert main(["export", str(trained), "--out", str(tmp_path / "out"), "--format", "nanogpt", "--step", "last"]) == 0
    assert "ckpt.pt, of step " in capfd.readouterr().out
    found, state = restore_state(trained, "last")
    source = initial_weights(str(tmp_path / "out"))
    optimizer = load_optimizer(state, source.load_optimizer)
    assert optimizer.text == f"the optimizer continues from the checkpoint's state after {found.step} steps"
    jax.tree.map(np.testing.assert_array_equal, source.load(), state.params)
    for name in ("mu", "nu"):
        read = states.get(replaced(state.opt_state, optimizer.values), name)
        jax.tree.map(np.testing.assert_array_equal, read, states.get(state.opt_state, name))
    saved = read_torch_file(tmp_path / "out" / "ckpt.pt")
    assert saved["iter_num"] == found.step and saved["best_val_loss"] == min(found.folder.scores().values())
    groups = saved["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [pytest.approx(0.1), 0.0]
    assert saved["model"].keys() >= {"lm_head.weight", "transformer.h.0.attn.c_attn.weight"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"opt": "muon"}, "this run has 'muon'; --no-optimizer writes the model alone"),
        ({"opt": "adamw(nesterov=True)"}, r"this run has 'adamw\(nesterov=True\)'"),
        ({"opt": "adamw(b1=[(0, 0.9), (5, 0.95)])"}, r"this run has 'adamw\(b1=\["),
        ({"wrap": ("ema_params",)}, "this run has --wrap ema_params"),
        ({"group": ("embed/*=lion",)}, "this run has --group embed"),
    ],
    ids=str,
)
def test_optimizers_that_nanogpt_cannot_resume(changes, says):
    with pytest.raises(UserError, match=says) as error:
        check_adamw(resolve(changes, "nano"))
    assert "\n" not in str(error.value)


def test_models_that_nanogpt_cannot_represent():
    with pytest.raises(UserError, match=r"mlp='gelu_tanh' \(not 'gelu'\), hidden=7 \(not 16\)"):
        check_nanogpt(ModelConfig(vocab_size=11, width=4, heads=2, mlp="gelu_tanh", hidden=7))


def test_mistakes_end_in_one_line(trained, tmp_path, capfd):
    for arguments, says in (
        ([str(trained), "--out", str(tmp_path)], "exists already"),
        ([str(tmp_path), "--out", str(tmp_path / "out")], "is not the folder of a run"),
        ([str(trained)], "the following arguments are required: --out"),
        ([str(trained), "--out", str(tmp_path / "out"), "--no-optimizer"], "--no-optimizer is for --format nanogpt"),
    ):
        assert main(["export", *arguments]) == 2
        said = capfd.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(trained, tmp_path, capfd, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("minigpt_flax.model.weight_files.replace", full)
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 1
    said = capfd.readouterr().err
    assert "No space left on device; the folder was removed" in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_what_a_killed_export_left_is_replaced(trained, tmp_path):
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / MARKER).touch()
    (left / "model.safetensors").write_bytes(b"half")
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == FILES


TEXT = "The License, and the\n\n  work"
TOKENIZED = {
    "char": (TOKENIZERS["char"], {}, {}),
    "byte": (TOKENIZERS["byte"], {}, {"bias": True, "mlp": "gelu_tanh"}),
    "bpe": (TOKENIZERS["bpe"], {"vocab_size": 300, "eot": True}, {"tie_head": False, "mlp": "relu2"}),
}


@pytest.fixture(scope="module", params=TOKENIZED)
def exported(request, tmp_path_factory, draw):
    """A model that was not trained, and the folder that its export wrote in shards."""
    make, keywords, parts = TOKENIZED[request.param]
    tokenizer, out = make(TEXT * 9, **keywords), tmp_path_factory.mktemp("exported") / "out"
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context=8, layers=2, heads=2, width=8, **parts)
    run = TrainedModel(config, draw(config, 0.3), RunConfig(), tokenizer, 1, RunFolder(out))
    with mock.patch("minigpt_flax.train.restore.restore", lambda path, step: run):
        assert main(["export", "run", "--out", str(out), "--shard-size", "0.00001", "--quiet"]) == 0
    return run, out


def test_an_exported_folder_is_read_back_with_its_tokenizer(exported):
    run, folder = exported
    found = initial_weights(str(folder))
    assert found.tokenizer is not None and found.load is not None and found.tokenizer.eot == run.tokenizer.eot
    np.testing.assert_array_equal(found.tokenizer.encode(TEXT), run.tokenizer.encode(TEXT))
    ours = dict(jax.tree.leaves_with_path(run.params))
    theirs = dict(jax.tree.leaves_with_path(found.load()))
    assert ours.keys() <= theirs.keys()  # biases that the run lacks are zeros
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(leaf, ours.get(path, 0))


def test_transformers_opens_the_folder_as_its_own(exported):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    run, folder = exported
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(TEXT)["input_ids"]
    np.testing.assert_array_equal(ids, run.tokenizer.encode(TEXT))
    assert tokenizer.decode(ids) == TEXT
    window = np.array([ids[: run.model.context]])
    with torch.no_grad():
        theirs = model(torch.from_numpy(window)).logits.numpy()
    np.testing.assert_allclose(apply(run.model, run.params, jnp.asarray(window)), theirs, atol=1e-4)
    assert tokenizer.eos_token_id == model.config.eos_token_id == run.tokenizer.eot
    if run.tokenizer.eot is not None:
        batch = tokenizer(["a", TEXT[:9]], padding=True, return_tensors="pt")
        assert batch["input_ids"][0, 0] == tokenizer.pad_token_id == run.tokenizer.eot
        lengths = {"max_new_tokens": 2, "do_sample": False}
        assert model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **lengths).shape[0] == 2


def test_a_tokenizer_without_end_of_text_pads_with_a_spare_row(tmp_path, draw, capfd):
    tokenizer = TOKENIZERS["char"](TEXT)
    for rows in (tokenizer.vocab_size, tokenizer.vocab_size + 3):
        out = tmp_path / str(rows)
        config = ModelConfig(vocab_size=rows, context=8, layers=1, heads=2, width=8)
        run = TrainedModel(config, draw(config, 0.3), RunConfig(), tokenizer, 1, RunFolder(out))
        with mock.patch("minigpt_flax.train.restore.restore", return_value=run):
            assert main(["export", "run", "--out", str(out)]) == 0
        spare, said = rows > tokenizer.vocab_size, capfd.readouterr().out
        assert ("has no padding token" in said and f"--vocab-size {rows + 1} or more" in said) is not spare
        padding = {"pad_token": "<|pad|>"} if spare else {}
        about = json.loads((out / "tokenizer_config.json").read_text())
        assert {name: value for name, value in about.items() if name.endswith("_token")} == padding
        config_ids = json.loads((out / "config.json").read_text())
        assert config_ids.get("pad_token_id") == (tokenizer.vocab_size if spare else None)
        found = initial_weights(str(out)).tokenizer
        np.testing.assert_array_equal(found.encode(TEXT), tokenizer.encode(TEXT))
