"""The presets named after models are these models, and every preset is a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout
from minigpt_flax.model import gpt
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.train.build import model_config
from minigpt_flax.train.config.presets import PRESET_NOTES, PRESETS
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.optimizer import build_optimizer

GPT2 = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


@pytest.mark.parametrize(("name", "parameters"), GPT2.items())
def test_gpt2_has_as_many_parameters_as_openais(name, parameters):
    model = model_config(resolve({}, name), 50_257)
    shapes = jax.eval_shape(lambda: gpt.init_params(model, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
    assert (model.bias, model.mlp, model.context) == (True, "gelu_tanh", 1024)


@pytest.mark.parametrize("name", GPT2)
def test_gpt2_warms_up_over_700_steps_as_llm_c_does(name):
    config = resolve({}, name)
    schedule, _ = build_optimizer(config, {})
    rates = np.array([schedule(step) for step in (698, 699, 700, 701, 702)])
    assert int(np.argmax(rates)) in (1, 2, 3)
    assert rates.max() == pytest.approx(config.lr)
    floor = {"gpt2-xl": 0.1}.get(name, 0.0)
    assert float(schedule(config.steps)) == pytest.approx(floor * config.lr, abs=1e-6 * config.lr)


def shares(step, steps=3250, cooldown=0.7):
    """The authors' schedule, as a fraction of the peak."""
    progress = step / steps
    return 1.0 if progress < 1 - cooldown else (1 - progress) / cooldown


def test_speedrun_is_its_authors_benchmark():
    config = resolve({}, "speedrun")
    model = model_config(config, 50_257)
    shapes = jax.eval_shape(lambda: gpt.init_params(model, jax.random.key(0)))
    block = 4 * (768 * 768 + 768) + 768 * 3072 + 3072 + 3072 * 768 + 768 + 2 * 768
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2 * 50_304 * 768 + 50_304 + 2 * 768 + 12 * block
    assert (config.step_tokens, config.accum, model.head_size, model.vocab_size) == (524_288, 8, 128, 50_304)
    schedule, _ = build_optimizer(config, model_layout(shapes))
    for step in (0, 974, 975, 976, 2000, 3249):
        assert float(schedule(step)) == pytest.approx(0.025 * shares(step), rel=1e-4)


def test_speedruns_optimizers_step_as_their_authors_do():
    """A matrix, an embedding, a head and a vector, two steps, against the same in NumPy; gradients are sums there."""
    config = dataclasses.replace(
        resolve({}, "speedrun"),
        dtype="float32",
        opt="muon(ns_coeffs=(2.0, -1.5, 0.5), ns_steps=12, eps=1.907e-13, weight_decay=0.05, debias=False)",
    )
    random, tokens = np.random.default_rng(0), 1 << 19
    shapes = {"matrix": (6, 4), "embedding": (5, 4), "head": (4, 5), "vector": (4,)}
    layout = {name: ParamLayout(name, (), *(((0,), (1,)) if len(s) == 2 else ((), (0,)))) for name, s in shapes.items()}
    params = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    sums = [{name: random.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2)]
    sums[0]["embedding"][0], sums[1]["embedding"][0] = 0, 0  # a token that doesn't occur
    _, tx = build_optimizer(config, layout)
    ours = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = tx.init(ours)
    for grads in sums:
        means = jax.tree.map(lambda leaf: jnp.asarray(leaf / tokens, jnp.float32), grads)
        updates, state = jax.jit(tx.update)(means, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    rates = {"embedding": 0.7, "head": 0.004, "vector": 0.015}
    for name, rate in rates.items():
        expected = authors_adamw(params[name], [grads[name] for grads in sums], rate)
        np.testing.assert_allclose(ours[name], expected, rtol=1e-4, atol=1e-6)
    expected = authors_muon(params["matrix"], [grads["matrix"] for grads in sums])
    np.testing.assert_allclose(ours["matrix"], expected, rtol=1e-4, atol=1e-5)


def authors_adamw(p, sums, rate):
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(sums, start=1):
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        p = p * (1 - rate * 0.001) - rate * m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-10)
    return p


def authors_muon(p, sums):
    """On a matrix (in, out), whose transpose theirs is; 12 steps of the iteration leave no singular value below 1."""
    m = np.zeros_like(p)
    for g in sums:
        m = 0.95 * m + 0.05 * g
        u, _, v = np.linalg.svd(0.05 * g + 0.95 * m, full_matrices=False)
        p = p * (1 - 0.025 * 0.05) - 0.025 * max(1, p.shape[1] / p.shape[0]) ** 0.5 * u @ v
    return p


def test_another_optimizer_under_speedrun_is_for_the_matrices_unless_the_groups_are_left_out():
    assert len(resolve({"opt": "adamw"}, "speedrun").group) == 3
    assert resolve({"opt": "adamw", "group": ("none",)}, "speedrun").group == ()


def test_every_preset_is_a_run_and_has_a_note():
    assert PRESETS.keys() == PRESET_NOTES.keys()
    for name in PRESETS:
        config = resolve({}, name)
        assert config.step_tokens == config.tokens_per_step
