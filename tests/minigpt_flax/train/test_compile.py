import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minigpt_flax.train.build import build
from minigpt_flax.train.compile import Ahead, call_once
from minigpt_flax.train.config.run_config import resolve
from tests.minigpt_flax.training import ROOT, TINY

SMALL = {name.replace("-", "_"): value for name, value in TINY.items() if name != "preset"} | {
    "data": str(TINY["data"])
}


def test_what_is_compiled_quickly_is_the_same_function():
    function = jax.jit(lambda key, scale: {"x": scale * jax.random.normal(key, (4, 5))})
    key = jax.random.key(3)
    np.testing.assert_allclose(call_once(function, key, 2.0)["x"], function(key, 2.0)["x"], rtol=1e-6)


def test_the_step_is_compiled_once_and_before_its_first_call():
    run = build(resolve(SMALL, "nano"))
    compiled = []

    def listen(event, duration_secs, **kwargs):
        if event.endswith("backend_compile_duration"):
            compiled.append(kwargs.get("fun_name"))

    state = call_once(run.init)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        step = Ahead(run.step, jax.eval_shape(run.init), run.batches(0))
        step.thread.join()
        assert compiled == ["jit(step)"]
        state, _ = step(state, run.batches(0))
        step(state, run.batches(1))
        assert compiled == ["jit(step)"]
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_an_error_is_raised_by_the_call():
    step = Ahead(jax.jit(lambda x: x @ jnp.ones(3)), jax.ShapeDtypeStruct((2,), "float32"))
    step.thread.join()
    with pytest.raises(TypeError, match="dot_general"):
        step(jnp.ones(2))


def test_a_process_that_ends_while_it_compiles_ends_in_order():
    code = """
import sys, jax, jax.numpy as jnp
from minigpt_flax.train.compile import Ahead

def deep(x):
    for i in range(300):
        x = jnp.sin(x) @ x + i
    return x

Ahead(jax.jit(deep), jax.ShapeDtypeStruct((8, 8), jnp.float32))
sys.exit(143)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (ended.returncode, ended.stderr) == (143, "")
