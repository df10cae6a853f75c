"""Tests for `minigpt_flax.model.layout`."""

import jax
import jax.numpy as jnp
import pytest

from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.gpt import init_params
from minigpt_flax.model.layout import Axes, layout

EVERYTHING = {"bias": True, "mlp": "swiglu", "qk_norm": True, "tie_head": False, "kv_heads": 1}
EVERYTHING |= {"head_bias": True, "embedding_norm": True}


def shapes(**parts):
    config = ModelConfig(vocab_size=11, context=5, layers=2, heads=2, width=8, **parts)
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


@pytest.mark.parametrize("parts", [{}, EVERYTHING, EVERYTHING | {"position": "rope"}])
def test_covers_every_parameter_and_every_axis(parts):
    params = shapes(**parts)
    axes = layout(params)
    assert jax.tree.structure(axes) == jax.tree.structure(params)
    for param, meaning in zip(jax.tree.leaves(params), jax.tree.leaves(axes), strict=True):
        named = meaning.stacked + meaning.inputs + meaning.outputs
        assert sorted(named) == list(range(param.ndim))
        assert (meaning.role == "vector") == (param.ndim - len(meaning.stacked) == 1)


def test_roles():
    axes = layout(shapes(**EVERYTHING))
    assert axes["head"]["kernel"] == Axes("head", (), (0,), (1,), tensor=1)
    assert axes["head"]["bias"] == Axes("vector", (), (), (0,), tensor=0)
    assert axes["token_embedding"]["embedding"].role == axes["position_embedding"]["embedding"].role == "embedding"
    attention = axes["blocks"]["attention"]
    assert {attention[part]["kernel"].role for part in ("query", "key", "value", "output")} == {"matrix"}
    assert attention["query"]["bias"].role == attention["key_norm"]["scale"].role == "vector"


def test_tensor_parallel_axes_match_within_a_branch():
    axes = layout(shapes(**EVERYTHING))["blocks"]
    for first, second in (("query", "output"), ("value", "output")):
        attention = axes["attention"]
        assert (attention[first]["kernel"].tensor,) == attention[first]["kernel"].outputs
        assert (attention[second]["kernel"].tensor,) == attention[second]["kernel"].inputs
    for first in ("up", "gate"):
        assert (axes["mlp"][first]["bias"].tensor,) == axes["mlp"][first]["bias"].outputs
    assert axes["mlp"]["down"]["bias"].tensor is axes["norm_1"]["scale"].tensor is None


def test_unknown_parameters_are_named():
    params = shapes() | {"adapter": {"weight": jnp.zeros(3)}}
    with pytest.raises(ValueError, match="'adapter/weight'"):
        layout(params)
