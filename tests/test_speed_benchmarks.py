"""The speed benchmarks run, at tiny sizes that test only that they run."""

import json

import jax
import pytest

from benchmarks import __main__ as benchmarks_main, compiling, generation, loop, parts, startup, step
from minigpt_flax.train.build import build
from minigpt_flax.train.compile import CompiledStep
from minigpt_flax.train.config.run_config import resolve

SMALL = {"layers": 1, "heads": 1, "width": 8, "context": 8}


@pytest.mark.slow
def test_startup(tmp_path):
    assert startup.main(["--repeats", "1", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    seconds = json.loads(file.read_text())["startup"]["seconds"]
    assert seconds.keys() == startup.BARS.keys() and all(times["least"] > 0 for times in seconds.values())


def test_a_step_dispatched_ahead_is_distinguished_from_one_that_waited():
    step = CompiledStep(jax.jit(lambda state, batch: (state, {"loss": state.sum()})))
    watched = loop.Watched(step)
    state, _ = watched(jax.numpy.ones(3), None)
    jax.block_until_ready(watched.before)
    watched(state, None)
    assert (watched.calls, watched.ahead) == (1, 0)


@pytest.mark.slow
def test_the_loop_is_measured(tmp_path, capsys):
    assert loop.main(["--tiny", "--rounds=1", "--steps=3", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["loop"]
    assert found["seconds"].keys() == {"step", *loop.BARS} and all(t["least"] > 0 for t in found["seconds"].values())
    assert found["ratios"].keys() == loop.BARS.keys()
    assert "on one device" in found["sent_ahead"] and all(0 <= share <= 1 for share in found["sent_ahead"].values())
    assert "loop with probes / step" in capsys.readouterr().out


@pytest.mark.slow
def test_generation_reports_absent_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "TOKENS", 4)
    monkeypatch.setattr(generation, "resolve", lambda given, preset: resolve({**given, **SMALL}, preset))
    assert generation.main(["--rounds", "2", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["generation"]
    assert found["tokens_per_second"].keys() == {"cached", "uncached"} and "--peers" in found["absent"]["nanoGPT"]
    assert all(speed["least"] > 0 for speed in found["tokens_per_second"].values())


@pytest.mark.slow
def test_a_step_is_measured_without_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "resolve", lambda given, preset: resolve({**given, **SMALL}, preset))
    monkeypatch.setitem(step.PRESETS, "nanogpt", (1.0, 2, 2, True))
    assert step.main(["--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["step nanogpt"]
    assert found["ms_per_step"].keys() == step.WAYS.keys() and "--peers" in found["absent"]["nanoGPT"]
    assert found["losses_apart"]["ours, one device"] < 1e-5


@pytest.mark.slow
def test_a_steps_parts_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "resolve", lambda given, preset: resolve({**given, **SMALL}, preset))
    assert parts.main(["--rounds", "1", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["parts"]
    assert found["ms_per_step"].keys() == found["over"].keys() == parts.CHANGES.keys()


def test_a_part_that_is_left_out_is_not_in_the_program():
    def program(name):
        with parts.CHANGES[name]():
            run = build(resolve({**SMALL, "mesh": "data=1"}, "nanogpt"))
            return run.step.lower(run.init(), run.batches(0)).as_text()

    whole = program(parts.AS_IT_IS)
    for name in parts.CHANGES:
        assert (program(name) == whole) == (name == parts.AS_IT_IS), name


@pytest.mark.slow
def test_compiling_a_step_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "DEPTHS", (1, 2))
    monkeypatch.setattr(compiling, "REPEATS", 1)
    monkeypatch.setattr(compiling, "MEMORY", {name: compiling.MEMORY[name] for name in ("layers as a loop",)})
    monkeypatch.setattr(compiling, "GPT2", {**SMALL, "batch_size": 2, "tokens_per_step": 16, "dtype": "float32"})
    assert compiling.main(["--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["compiling"]
    assert found["memory"]["bytes"].keys() == compiling.MEMORY.keys() and found["depth"]["seconds"].keys() == {"1", "2"}


def test_benchmarks_without_their_peers_are_left_out(capfd):
    assert benchmarks_main.main(["--only", "time to loss"]) == 0
    assert "left out without --peers and --data" in capfd.readouterr().out
    assert benchmarks_main.main(["--peers", "nowhere"]) == 2
