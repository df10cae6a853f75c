"""Compilation: quick programs, and a step that is compiled in the background."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.train.build import build
from minigpt_flax.train.compile import CompiledStep, run_unoptimized
from minigpt_flax.train.config.run_config import resolve
from tests.minigpt_flax.training import ROOT, TINY

SMALL = {name.replace("-", "_"): value for name, value in TINY.items() if name != "preset"} | {
    "data": str(TINY["data"])
}


def test_a_program_compiled_without_optimizations_is_the_same_function():
    function = jax.jit(lambda key, scale: {"x": scale * jax.random.normal(key, (4, 5))})
    key = jax.random.key(3)
    np.testing.assert_allclose(run_unoptimized(function, key, 2.0)["x"], function(key, 2.0)["x"], rtol=1e-6)


def in_background(step, *arguments, check=lambda analysis: None):
    """Compiles in the background, and waits for the end."""
    step.compile_in_background(*arguments, check=check)
    step._thread.join()


def test_the_step_is_compiled_once_and_before_its_first_call():
    run = build(resolve(SMALL, "nano"))
    compiled = []

    def listen(event, duration_secs, **kwargs):
        if event.endswith("backend_compile_duration"):
            compiled.append(kwargs.get("fun_name"))

    state = run_unoptimized(run.init)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        in_background(run.step, run.state, run.batches(0))
        assert compiled == ["jit(step)"]
        state, _ = run.step(state, run.batches(0))
        run.step(state, run.batches(1))
        assert compiled == ["jit(step)"]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_an_error_is_raised_by_the_call():
    step = CompiledStep(jax.jit(lambda x: x @ jnp.ones(3)))
    in_background(step, jax.ShapeDtypeStruct((2,), "float32"))
    with pytest.raises(TypeError, match="dot_general"):
        step(jnp.ones(2))


def test_the_check_sees_the_memory_of_the_program_before_the_first_call():
    checked = []

    def refuse(analysis):
        checked.append(analysis.argument_size_in_bytes)
        raise MemoryError

    step = CompiledStep(jax.jit(lambda x: x + 1))
    in_background(step, jax.ShapeDtypeStruct((256,), "float32"), check=refuse)
    with pytest.raises(MemoryError):
        step(jnp.ones(256))
    assert checked == [1024]


def test_results_are_finished_by_every_call():
    step = CompiledStep(jax.jit(lambda x: x + 1), block=True, finish=lambda x: {"x": x})
    assert [float(step(x)["x"]) for x in (1.0, 2.0)] == [2.0, 3.0]


def test_a_process_that_ends_while_it_compiles_ends_in_order():
    code = """
import sys, jax, jax.numpy as jnp
from minigpt_flax.train.compile import CompiledStep

def deep(x):
    for i in range(300):
        x = jnp.sin(x) @ x + i
    return x

step = CompiledStep(jax.jit(deep))
step.compile_in_background(jax.ShapeDtypeStruct((8, 8), jnp.float32), check=print)
sys.exit(143)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (ended.returncode, ended.stderr) == (143, "")
