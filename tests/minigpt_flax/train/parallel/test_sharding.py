"""Eight devices compute what one does, with every mesh, and hold their share of the state."""

import functools

import jax
import numpy as np
import pytest

from minigpt_flax.console import summary
from minigpt_flax.train.build import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.parallel.sharding import device_bytes
from minigpt_flax.train.restore import reopen
from tests.minigpt_flax.training import TINY, flags, records, resume, spawn, start

SIZES = {"layers": 2, "heads": 4, "width": 16, "context": 8, "batch_size": 8, "steps": 50, "lr": 1e-2}
ONE = {"mesh": "data=1"}
SPREADS = {
    "data": {"mesh": "data=8"},
    "zero": {"mesh": "zero=8"},
    "fsdp": {"mesh": "data=2,fsdp=4"},
    "tensor": {"mesh": "data=4,tensor=2"},
    "pmap": {"mesh": "data=8", "parallel": "pmap"},
}
OPTIMIZERS = {"sgd": 1e-6, "adamw": 1e-4, "muon": 1e-4, "adafactor": 1e-4}
QUICK = ("adamw", "fsdp")  # nanoGPT's losses are reproduced quickly with tensor and pmap too


def setup(**changes):
    return build(resolve(SIZES | {"data": str(TINY["data"]), "schedule": "warmup_cosine(warmup=4)"} | changes, "nano"))


@functools.cache
def trained(opt, spread):
    """Losses of 50 steps, the validation after them and the last state."""
    run = setup(opt=opt, **SPREADS.get(spread, ONE))
    state, losses = run.init(), []
    for t in range(run.config.steps):
        state, metrics = run.step(state, run.batches(t))
        losses.append(float(metrics["loss"]))
    return np.array([*losses, run.evaluate(state.evaluation_params)["val_loss"]]), state, run


@pytest.mark.parametrize(
    ("opt", "spread"),
    [
        pytest.param(opt, spread, marks=[] if (opt, spread) == QUICK else pytest.mark.slow)
        for opt in OPTIMIZERS
        for spread in SPREADS
    ],
)
def test_fifty_steps_are_those_of_one_device(opt, spread):
    one, _, _ = trained(opt, "one")
    many, state, run = trained(opt, spread)
    print(opt, spread, np.abs(many - one).max())
    assert np.ptp(one) > 0.05  # it moves
    assert np.abs(many - one).max() <= OPTIMIZERS[opt]
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, run.state)
    assert state.params["token_embedding"]["embedding"].sharding.device_set == set(jax.devices())


@pytest.mark.parametrize(("dropout", "accum"), [(0.2, 1), pytest.param(0.01, 2, marks=pytest.mark.slow)])
def test_dropout_masks_are_those_of_one_device(dropout, accum):
    def losses(**changes):
        run = setup(layers=1, dropout=dropout, accum=accum, opt="sgd", **changes)
        state, found = run.init(), []
        for t in range(3):
            state, metrics = run.step(state, run.batches(t))
            found.append(float(metrics["loss"]))
        return np.array(found)

    assert np.abs(losses(**SPREADS["pmap"]) - losses(**ONE)).max() <= 1e-6


@pytest.mark.parametrize(
    ("spread", "params", "opt_state"),
    [("data", 1, 1), ("pmap", 1, 1), ("zero", 1, 8), ("fsdp", 4, 4), ("tensor", 1.95, 1.95)],
)
def test_the_share_of_a_device_shrinks(spread, params, opt_state):
    one, many = setup(opt="adamw", **ONE).state, setup(opt="adamw", **SPREADS[spread]).state
    for part, shrinks in (("params", params), ("opt_state", opt_state)):
        held, whole = (device_bytes(getattr(state, part)) for state in (many, one))
        assert whole / shrinks <= held <= whole / shrinks * 1.02


@pytest.mark.parametrize(
    ("opt", "mesh"),
    [
        pytest.param("adamw", "data=2,fsdp=2,tensor=2", marks=pytest.mark.slow),
        pytest.param("adamw", "zero=2,fsdp=2,tensor=2", marks=pytest.mark.slow),
        ("muon", "data=2,fsdp=2,tensor=2"),
    ],
)
def test_the_compiler_replicates_no_activations(opt, mesh, capfd):
    """XLA warns on stderr where it finds no other way from one sharding to the next."""
    run = setup(mesh=mesh, opt=opt, layers=3)
    state, _ = run.step(run.init(), run.batches(0))
    loss = run.evaluate(state.evaluation_params)["val_loss"]
    assert "rematerialization" not in capfd.readouterr().err
    alone = setup(mesh="data=1", opt=opt, layers=3)
    state, _ = alone.step(alone.init(), alone.batches(0))
    assert abs(loss - alone.evaluate(state.evaluation_params)["val_loss"]) <= 1e-5


EIGHT, ALONE = "--mesh=data=2,fsdp=4", "--mesh=data=1"


@pytest.mark.parametrize(("before", "after"), [(EIGHT, ALONE), pytest.param(ALONE, EIGHT, marks=pytest.mark.slow)])
def test_a_run_resumes_on_other_devices(tmp_path, capfd, before, after):
    sizes = {"batch_size": 8, "steps": 60, "eval_every": 60}
    assert start(tmp_path / "whole", before, **sizes) == 0
    assert start(tmp_path / "run", before, "--stop-after=9", **sizes) == 0
    assert "8 of" not in capfd.readouterr().out
    assert resume(tmp_path / "run", after) == 0
    losses = [[line["loss"] for line in records(tmp_path / name) if "loss" in line] for name in ("whole", "run")]
    differences = np.abs(np.subtract(*losses))
    print(before, after, differences[9], differences.max())
    assert len(differences) == 60
    assert differences[:9].max() == 0 and differences[9] <= 1e-6 and differences.max() <= 1e-4


def test_a_run_on_many_devices_is_reopened_on_one(tmp_path):
    assert start(tmp_path / "run", "--mesh=data=8", "--parallel=pmap", "--stop-after=1", batch_size=8) == 0
    run, state = reopen(tmp_path / "run")
    assert int(state.step) == 1 and all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(state))
    after, _ = run.step(state, run.batches(1))
    assert int(after.step) == 2


def test_the_summary_shows_how_the_run_is_spread():
    text = dict(summary.summary(setup(mesh="data=2,fsdp=4")))["device"]
    assert text.splitlines()[0].startswith("8 x cpu, JAX ")
    assert text.splitlines()[1:] == [
        "jit, mesh data=2,fsdp=4",
        "per device: parameters 7.57 kB of 30.3 kB,",
        "  optimizer 15.2 kB of 60.6 kB",
    ]
    pmap = {"mesh": "data=8", "parallel": "pmap"}
    assert summary._devices(setup(**pmap)).splitlines()[1] == "pmap, mesh data=8"
    assert summary._devices(setup(mesh="data=2")).startswith("2 of 8 x cpu")
    config = setup(accum=2).config
    assert summary._batch(config.phases, config.steps).startswith("128 tokens = 2 x 8 x 8 per step")


@pytest.mark.slow
@pytest.mark.parametrize("way", [("--mesh=data=8",), ("--mesh=data=2,fsdp=2,tensor=2",), ("--parallel=pmap",)], ids=str)
def test_five_hundred_steps_on_many_devices_do_not_wait_for_each_other(tmp_path, way):
    """On two cores as on many: steps that ran ahead of each other would hang here within the first hundred."""
    sizes = {"batch_size": 8, "steps": 500, "eval_every": 100, "mesh": "data=8", "width": 64}
    process = spawn(*flags(out=tmp_path, name="run", **sizes), *way, JAX_NUM_CPU_DEVICES="8")
    try:
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, ""), out
    assert records(tmp_path / "run")[-1]["step"] == 500


@pytest.mark.slow
def test_speedruns_parts_are_spread_and_do_what_they_do_on_one_device():
    """Among them the bias of the logits, which lies with its columns of the head's matrix."""
    sizes = {**SIZES, "data": str(TINY["data"]), "tokenizer": "byte", "vocab_size": 256, "tokens_per_step": 64}
    specs = {"opt": "sgd", "group": ("none",), "dtype": "float32", "init_scheme": "gpt2"}  # at once, gradients flow

    def losses(mesh):
        run = build(resolve({**sizes, **specs, "mesh": mesh}, "speedrun"))
        state, found = run.init(), []
        for t in range(3):
            state, metrics = run.step(state, run.batches(t))
            found += [float(metrics["loss"]), float(metrics["grad_norm"])]
        return found, state.params["head"]

    (one, _), (many, head) = losses("data=1"), losses("data=4,tensor=2")
    np.testing.assert_allclose(many, one, rtol=1e-5)
    assert np.ptp(one[::2]) > 1e-3
    assert {name: leaf.sharding.shard_shape(leaf.shape) for name, leaf in head.items()} == {
        "kernel": (16, 128),
        "bias": (128,),
    }


@pytest.mark.slow
def test_a_mixture_is_on_many_devices_what_it_is_on_one(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("To the extent possible. " * 40, encoding="utf-8")

    def losses(mesh):
        data = {"data": (str(TINY["data"]), str(other)), "mix": "0.75,0.25", "opt": "sgd", "mesh": mesh}
        run = build(resolve({**SIZES, **data}, "nano"))
        state, found = run.init(), []
        for t in range(3):
            state, metrics = run.step(state, run.batches(t))
            found.append(float(metrics["loss"]))
        return [*found, *run.evaluate(state.evaluation_params).values()]

    np.testing.assert_allclose(losses("data=2,fsdp=4"), losses("data=1"), rtol=1e-5)
