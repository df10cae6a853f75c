"""``--init``: a run starts from existing parameters; parameters that don't fit are refused in one line."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adamw, chain, clip_by_norm, ema_params, sgd, states
from minigpt_flax.errors import UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import apply
from minigpt_flax.model.huggingface import (
    LINEAR,
    from_gpt2,
    load_gpt2,
    load_nanogpt,
    load_nanogpt_optimizer,
    read_nanogpt,
)
from minigpt_flax.model.loss import cross_entropy
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.initial_optimizer import NO_OPTIMIZER, load_optimizer, replaced
from minigpt_flax.train.initial_weights import (
    SHAPE,
    fields_from_weights,
    first_params,
    first_state,
    initial_weights,
    known_tokenizer,
    require_tokenizer,
)
from minigpt_flax.train.restore import restore
from minigpt_flax.train.state import init_state
from tests.minigpt_flax.model.test_huggingface import GOLDEN
from tests.minigpt_flax.training import TINY, call, flags, last_state, records, resume, start

GPT2 = str(GOLDEN / "gpt2")
SIZES = ("layers", "heads", "width", "context")
DATA = {name.replace("-", "_"): value for name, value in TINY.items() if name not in ("preset", *SIZES)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run whose optimizer keeps an average."""
    path = tmp_path_factory.mktemp("runs") / "source"
    assert start(path, "--wrap=ema_params(decay=0.8)", width=24) == 0
    return path


def tuned(out, *more, **changes):
    """The command line of a run whose sizes come from elsewhere."""
    left, changes = {f"--{name}" for name in SIZES}, {"schedule": "constant", **changes}
    return [flag for flag in flags(out=out, name="tuned", **changes) if flag.split("=")[0] not in left] + list(more)


def test_a_run_starts_from_the_average_of_another(source, tmp_path):
    assert call(*tuned(tmp_path, init=source, steps=1, eval_every=1, lr=0.0)) == 0
    theirs = min(line["val_loss"] for line in records(source) if "val_loss" in line)
    (ours,) = (line["val_loss"] for line in records(tmp_path / "tuned") if "val_loss" in line)
    assert ours == pytest.approx(theirs, abs=1e-6)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert (config["width"], config["init"]) == (24, str(source))
    assert (tmp_path / "tuned" / "tokenizer.json").read_text() == (source / "tokenizer.json").read_text()


def before_the_first_save(folder):
    """Brings a run to the state of one that was killed before its first checkpoint."""
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    (folder / ".saved").unlink()


def test_ended_before_the_first_save_it_begins_from_the_same_parameters_or_not_at_all(source, tmp_path, capsys):
    copied = shutil.copytree(source, tmp_path / "source")
    assert call(*tuned(tmp_path / "whole", init=copied, steps=4)) == 0
    assert call(*tuned(tmp_path / "cut", init=copied, steps=4)) == 0
    before_the_first_save(tmp_path / "cut" / "tuned")
    assert resume(tmp_path / "cut" / "tuned") == 0
    assert last_state(tmp_path / "cut" / "tuned") == last_state(tmp_path / "whole" / "tuned")
    scores = {line["val_loss"]: line["step"] for line in records(copied) if "val_loss" in line}
    shutil.rmtree(copied / "checkpoints" / str(scores[min(scores)]))
    before_the_first_save(tmp_path / "cut" / "tuned")
    capsys.readouterr()
    assert resume(tmp_path / "cut" / "tuned") == 2
    output = capsys.readouterr().err
    assert "source have changed since" in output and "restore those with the SHA-256" in output
    assert output.count("\n") == 1


def config_of(init, **given):
    given = {**DATA, "data": str(DATA["data"]), "init": init, **given}
    return resolve(given, "nano", fields_from_weights(given, initial_weights(init)))


@pytest.mark.parametrize("wrap", [(), pytest.param(("ema_params(decay=0.9)",), marks=pytest.mark.slow)])
def test_the_first_loss_is_gpt2s_own(wrap):
    run = build(config_of(GPT2, wrap=wrap))
    assert (run.model.vocab_size, run.model.bias, run.model.mlp, run.model.context) == (96, True, "gelu_tanh", 64)
    state = first_state(run, first_params(run, initial_weights(GPT2)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)}) == len(jax.tree.leaves(state))
    tokens = jnp.asarray(np.load(GOLDEN / "gpt2" / "expected.npz")["tokens"])
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    config, params = load_gpt2(GOLDEN / "gpt2")
    total, count = cross_entropy(apply(config, params, inputs), targets)
    np.testing.assert_allclose(total / count, np.load(GOLDEN / "gpt2" / "expected.npz")["loss"], atol=1e-5)
    batch = jnp.concatenate([inputs, targets[:, -1:]], axis=1)
    _, metrics = run.step(state, batch)
    np.testing.assert_allclose(metrics["loss"], total / count, atol=1e-6)


def test_a_shorter_context_keeps_the_first_positions():
    run = build(config_of(GPT2, context=16))
    assert run.model.context == 16
    params = first_state(run, first_params(run, initial_weights(GPT2))).params
    whole = load_gpt2(GOLDEN / "gpt2")[1]["position_embedding"]["embedding"]
    np.testing.assert_array_equal(params["position_embedding"]["embedding"], whole[:16])


def test_an_exported_run_is_tuned_with_its_own_tokenizer(source, tmp_path):
    from minigpt_flax.__main__ import main

    arguments = ["--schedule=constant", "--tokenizer=bpe(vocab_size=270)", "--bias", "--mlp=gelu_tanh", "--steps=8"]
    assert start(tmp_path / "bpe", *arguments) == 0
    assert main(["export", str(tmp_path / "bpe"), "--out", str(tmp_path / "folder")]) == 0
    found = initial_weights(str(tmp_path / "folder"))
    assert (
        found.tokenizer is not None and known_tokenizer(config_of(str(tmp_path / "folder")), found) is found.tokenizer
    )
    assert known_tokenizer(config_of(str(tmp_path / "folder"), tokenizer="byte"), found) is None
    text = "the work, and the licence"
    np.testing.assert_array_equal(found.tokenizer.encode(text), restore(tmp_path / "bpe").tokenizer.encode(text))
    jax.tree.map(np.testing.assert_array_equal, found.load(), restore(tmp_path / "bpe").params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 4}, "has layers=3, but --layers says 4"),
        ({"context": 65}, "has context=64, but --context says 65"),
        ({"bias": False}, "has bias=True, but --bias says False"),
        ({"tokenizer": "byte"}, "the tokenizer has 256 tokens, but --vocab-size is only 96"),
        ({"init": "gpt3"}, "no such folder (did you mean 'gpt2'?)"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError) as error:
        build(config_of(**{"init": GPT2, **changes}))
    assert message in str(error.value)


def test_another_tokenizer_than_the_runs_is_refused(source, tmp_path, capsys):
    assert call(*tuned(tmp_path, "--tokenizer=byte", init=source)) == 2
    output = capsys.readouterr().err
    assert "has tokenizer='char', but --tokenizer says 'byte'" in output and output.count("\n") == 1
    assert not (tmp_path / "tuned").exists()


def test_without_a_network_the_hub_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **keywords):
        raise hub.errors.LocalEntryNotFoundError("x\ny")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="openai-community/gpt2-xl is not in the cache .* can't be downloaded"):
        initial_weights("gpt2-xl")


def test_every_field_of_a_model_is_part_of_its_shape_or_free():
    free = {"init_scheme", "dropout", "scan_layers", "dtype", "attention", "remat", "loss_chunk", "end_of_text"}
    free |= {"batch_axis"}  # of pmap
    free |= {"embedding_scale", "residual_scale", "logit_scale", "init_width", "init_layers"}  # of the parametrization
    assert {f.name for f in dataclasses.fields(ModelConfig)} == set(SHAPE) | free


def test_weights_without_a_tokenizer_ask_for_one_where_the_data_is_text(tmp_path, capsys):
    assert call(*tuned(tmp_path, init=GPT2, steps=1)) == 2
    output = capsys.readouterr().err
    assert "gpt2 has no tokenizer (tokenizer.json, vocab.json and merges.txt, or vocab.txt)" in output
    assert "LICENSE is text: give the --tokenizer" in output and output.count("\n") == 1
    np.arange(90, dtype="<u2").tofile(tmp_path / "train.bin")
    found = initial_weights(GPT2)
    require_tokenizer({}, found, [str(tmp_path / "train.bin")])
    require_tokenizer({"tokenizer": "byte"}, found, ["pydocs"])


RESUMED = GOLDEN / "nanogpt" / "resumed"  # 30 steps of nanoGPT, and the losses of the next 20
MODEL = ModelConfig(vocab_size=11, context=8, layers=2, heads=2, width=8, bias=False)


def state_of(tx):
    """The abstract state of a run with this optimizer."""
    params = load_nanogpt(RESUMED / "ckpt.pt")[1]
    return jax.eval_shape(lambda: init_state(params, tx))


def test_the_moments_of_nanogpts_optimizer_are_taken_over():
    """As its weights are: each moment is converted like the tensor that it belongs to."""
    tx = ema_params(chain(clip_by_norm(1.0), adamw(lambda count: 0.1)))
    source = initial_weights(str(RESUMED / "ckpt.pt"))
    found = load_optimizer(state_of(tx), source.load_optimizer)
    assert found.text == "the optimizer continues from the checkpoint's state after 30 steps"
    state = replaced(tx.init(source.load()), found.values)
    saved, _ = load_nanogpt_optimizer(RESUMED / "ckpt.pt")
    order = [number for group in saved["param_groups"] for number in group["params"]]
    names = [name for name in read_nanogpt(RESUMED / "ckpt.pt")[1] if name != "lm_head.weight"]
    names = sorted(names, key=lambda name: "ln_" in name)  # matrices, then vectors
    tensors = {name: saved["state"][i]["exp_avg"] for name, i in zip(names, order, strict=True)}
    moments = from_gpt2({name: t.T if name.endswith(LINEAR) else t for name, t in tensors.items()}, MODEL)
    jax.tree.map(np.testing.assert_array_equal, states.get(state, "mu"), moments)
    counts = {path.split("/")[-1]: int(count) for path, count in states.get_all(state, "count").items()}
    assert counts == {"EmaParamsState.count": 0, "ScaleByAdamState.count": 30, "ScaleByScheduleState.count": 0}


@pytest.mark.parametrize(
    ("tx", "reason"),
    [
        (sgd(0.1), "token_embedding/embedding: no state here has a place for PyTorch's 'exp_avg'"),
        (sgd(0.1, momentum=0.9), "token_embedding/embedding: PyTorch has no 'momentum_buffer'"),
    ],
)
def test_why_another_optimizer_does_not_continue(tx, reason):
    text = load_optimizer(state_of(tx), initial_weights(str(RESUMED / "ckpt.pt")).load_optimizer).text
    assert text.startswith(f"the checkpoint's optimizer state is not used: {reason}") and "\n" not in text


@pytest.mark.slow
def test_nanogpt_continues_with_its_own_losses(tmp_path):
    expected, init = np.load(RESUMED / "next.npz"), str(RESUMED / "ckpt.pt")
    (tmp_path / "text.txt").write_text("abcdefghijk" * 300)
    given = {"data": str(tmp_path / "text.txt"), "tokenizer": "char", "init": init, "steps": 20, "batch_size": 4}
    given |= {"opt": "adamw(b2=0.99, weight_decay=0.1)", "lr": 1e-2, "schedule": "constant", "dropout": 0.0}
    source = initial_weights(init)
    run = build(resolve({**given, "clip": "clip_by_norm(1.0)"}, "nano", fields_from_weights(given, source)))
    ends = []
    for optimizer in (load_optimizer(run.state, source.load_optimizer), NO_OPTIMIZER):
        state, losses = first_state(run, first_params(run, source), optimizer), []
        for batch in expected["batches"]:
            state, metrics = run.step(state, batch.astype(np.int32))
            losses.append(float(metrics["loss"]))
        ends.append(np.abs(losses - expected["losses"]).max())
    assert ends[0] < 1e-5 < 1e-2 < ends[1]
