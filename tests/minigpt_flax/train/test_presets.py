"""The presets named after models are these models, and every preset is a run."""

import jax
import numpy as np
import pytest

from minigpt_flax.model import gpt
from minigpt_flax.train.build import model_config
from minigpt_flax.train.config import PRESET_NOTES, PRESETS, resolve
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


def test_every_preset_is_a_run_and_has_a_note():
    assert PRESETS.keys() == PRESET_NOTES.keys()
    for name in PRESETS:
        config = resolve({}, name)
        assert config.step_tokens == config.tokens_per_step
