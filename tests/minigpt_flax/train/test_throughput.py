"""The speed report: what is counted as a step, the table of devices, and where the figures come from."""

import json

import jax
import jax.numpy as jnp
import pytest

from minigpt_flax.train import clock as clocks, throughput
from minigpt_flax.train.clock import Clock
from minigpt_flax.train.devices import PEAKS, peak_flops
from minigpt_flax.train.throughput import Compilation, Memory, Speed, peak_memory, peak_resident
from tests.minigpt_flax.training import start

KNOWN = {  # as JAX names them -> dense bfloat16 TFLOP/s on the data sheet, per device of JAX
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H200": 989.4,
    "NVIDIA B200": 2250,
    "NVIDIA GB200": 2500,
    "NVIDIA L4": 121,
    "NVIDIA L40S": 362,
    "Tesla T4": None,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 5090": 209.5,
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v5": 459,
    "TPU v6 lite": 918,
    "cpu": None,
    "Radeon": None,
}
PLAIN = {"dtype": "bfloat16", "tokens_per_step": 1000, "compile_seconds": 3.0, "cached_programs": 0}
PLAIN |= {"validation_seconds": 2.0, "memory": Memory(2 * 10**9, "peak of the device")}


@pytest.mark.parametrize("kind", KNOWN)
def test_peaks(kind):
    known = KNOWN[kind]
    assert peak_flops(kind, "bfloat16") == (None if known is None else pytest.approx(known * 1e12))


def test_no_pattern_is_shadowed_by_one_before():
    """A pattern's own text, plain, is found by itself first."""
    for pattern, peak in PEAKS:
        plain = pattern.split("|")[0].replace(r"\b", "").replace("?", "")
        assert peak_flops(plain, "float32") == peak.float32, pattern


def speed_of(**changes):
    return Speed(**PLAIN | {"device": "NVIDIA H200", "devices": 2, "steps": 50, "seconds": 5.0} | changes)


def test_utilisation():
    found = speed_of(flops_per_step=10**14, peak_flops=1e15)
    assert found.step_seconds == 0.1 and found.tokens_per_second == 10_000
    assert found.mfu == 1e15 / 2e15
    assert found.lines() == (
        "10.0k tokens/s, 100.0 ms per step; 1.00 PFLOP/s, MFU 50.0%\n"
        "compiling 3.0 s, validations 2.0 s\n"
        "memory 2.00 GB (peak of the device)"
    )


def test_an_unknown_device_says_so():
    assert "MFU unknown for Radeon in bfloat16" in speed_of(device="Radeon", flops_per_step=1, peak_flops=None).lines()
    assert "no MFU on a CPU" in speed_of(device="cpu", flops_per_step=1, peak_flops=None).lines()


def test_without_a_timed_step_there_is_no_speed():
    found = speed_of(steps=0, seconds=0.0, flops_per_step=1, peak_flops=1.0)
    assert found.lines().startswith("too few steps to measure\ncompiling 3.0 s") and found.record()["mfu"] is None


def test_the_clock_leaves_out_compilation_and_validation(monkeypatch):
    now = 0.0
    monkeypatch.setattr(clocks.time, "monotonic", lambda: now)
    clock = Clock()
    for elapsed, event in [(30, clock.step), (1, clock.step), (1, clock.step), (20, clock.pause), (9, clock.step)]:
        now += elapsed
        event()
    now += 1
    clock.step()
    assert (clock.steps, clock.seconds, clock.paused) == (3, 3.0, 20.0)


def test_compilation_is_listened_to_and_only_then():
    x = jnp.arange(7.0)
    with Compilation() as heard:
        jax.jit(lambda x: jnp.sin(x) * 3)(x)
    seconds = heard.seconds
    assert seconds > 0
    jax.jit(lambda x: jnp.cos(x) * 5)(x)
    assert heard.seconds == seconds


def test_memory_is_xlas_where_the_device_tells_nothing():
    state = jnp.ones((256, 256))
    compiled = jax.jit(lambda x: x @ x).lower(state).compile()
    found = peak_memory(state, compiled.memory_analysis)
    assert found.source == "of a step, by XLA" and 2 * state.nbytes <= found.size < 4 * state.nbytes
    assert peak_memory(state, lambda: None).source == "of the process"
    assert 50e6 < peak_resident() < 1e11


def test_a_run_ends_with_its_speed(tmp_path, capfd):
    assert start(tmp_path / "run", "--stop-after=20", dtype="bfloat16") == 0
    output = capfd.readouterr().out
    record = json.loads((tmp_path / "run" / "speed.json").read_text())
    assert f"{record['step_seconds'] * 1e3:.1f} ms per step" in output and "no MFU on a CPU" in output
    assert record["steps"] == 20 - 3  # the first, and one after each of two validations
    assert record["tokens_per_second"] == pytest.approx(record["steps"] * 32 / record["seconds"])
    assert record["device"] == "cpu" and record["mfu"] is None and record["memory"]["size"] > 1e5
    assert record["dtype"] == "bfloat16"
    assert (
        throughput.Speed(**{**{k: record[k] for k in Speed.__dataclass_fields__}, "memory": Memory(1, "")}).steps == 17
    )
