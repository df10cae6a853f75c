"""Probes against the same computed by hand, and the steps in which they measure."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from jaxopt_mini import ParamLayout
from minigpt_flax.train import run as run_module
from minigpt_flax.train.compile import CompiledStep
from minigpt_flax.train.probes import layers
from minigpt_flax.train.state import StepView
from tests.minigpt_flax.training import records, start


def test_ratios_by_layer_are_those_of_each_single_layer():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    tree = lambda: {"blocks": {"kernel": draw(3, 4, 5), "scale": draw(3, 4)}, "head": draw(4, 6)}
    layout = {
        "blocks": {"kernel": ParamLayout("matrix", (0,), (1,), (2,)), "scale": ParamLayout("vector", (0,), (), (1,))},
        "head": ParamLayout("head", (), (0,), (1,)),
    }
    updates, params = tree(), tree()
    view = StepView(jnp.int32(0), params, None, updates, None, None, layout, jnp.float32(0))
    apart = lambda values, i: np.concatenate([leaf[i].ravel() for leaf in values["blocks"].values()])
    norm = np.linalg.norm
    expected = {f"update_ratio/layer_{i}": norm(apart(updates, i)) / norm(apart(params, i)) for i in range(3)}
    measured = layers(view)
    assert measured.keys() == expected.keys()
    np.testing.assert_allclose(list(measured.values()), list(expected.values()), rtol=1e-5)


def test_the_cosine_is_of_two_successive_steps_however_many_are_logged(tmp_path):
    for every in (1, 3):
        assert start(tmp_path / str(every), "--probe=cosine", log_every=every, steps=6, eval_every=6) == 0
    of = lambda name: {line["step"]: line.get("update_cosine") for line in records(tmp_path / name) if "loss" in line}
    all_steps, some = of("1"), of("3")
    assert some.keys() == {1, 3, 6} and some[1] is None
    np.testing.assert_allclose([some[3], some[6]], [all_steps[3], all_steps[6]], rtol=1e-4)


def test_probes_measure_only_in_logged_steps(tmp_path, monkeypatch):
    counted = {"step": 0, "step_with_probes": 0, "step_with_periodic_probes": 0}

    def counting(run, name):
        function = getattr(run, name).function

        def step(*arguments):
            counted[name] += 1
            return function(*arguments)

        step.lower = function.lower
        return CompiledStep(step)

    def build(*given, built=run_module.build, **more):
        run = built(*given, **more)
        return dataclasses.replace(run, **{name: counting(run, name) for name in counted})

    monkeypatch.setattr(run_module, "build", build)
    assert start(tmp_path / "run", "--probe=ratios", "--probe=sharpness(every=6)", log_every=3, steps=8) == 0
    assert counted == {"step": 5, "step_with_probes": 1, "step_with_periodic_probes": 2}
    lines = [line for line in records(tmp_path / "run") if "loss" in line]
    assert [(line["step"], "sharpness" in line) for line in lines] == [(1, True), (3, False), (6, True)]
    assert all("update_ratio/matrix" in line for line in lines)
