"""FLOPs: by hand, from the products in the traced program, and from XLA's analysis of the compiled program."""

import math

import jax
import jax.numpy as jnp
import pytest

from minigpt_flax.model import gpt
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.flops import forward_flops, multiplied_parameters, training_flops
from tests.minigpt_flax.model import speedrun

CONFIGS = {
    "plain": {},
    "head of its own": {"tie_head": False, "bias": True},
    "grouped queries": {"kv_heads": 2, "position": "rope"},
    "gated": {"mlp": "swiglu", "hidden": 40, "norm": "rmsnorm", "qk_norm": True},
    "speedrun": {**speedrun.PARTS, "width": 64},
    "one layer": {"layers": 1, "softcap": 15.0},
}


def model(**changes):
    config = ModelConfig(**{"vocab_size": 50, "context": 24, "layers": 3, "heads": 4, "width": 32} | changes)
    return config, jax.eval_shape(lambda: gpt.init_params(config, jax.random.key(0)))


def products(jaxpr):
    """FLOPs of all products of matrices in a traced program, those inside its parts included."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += repeats * sum(products(part) for part in inner if hasattr(part, "eqns"))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left.shape[i] for i in contracted)
    return total


def test_by_hand():
    config, params = model()
    weights = 3 * (4 * 32 * 32 + 2 * 32 * 128) + 50 * 32  # query, key, value, output; up, down; the head
    assert multiplied_parameters(config, params) == weights
    seen = sum(range(1, 21))  # the first query sees one key, the twentieth all
    assert forward_flops(config, params, 20) == 2 * weights * 20 + 3 * 2 * (2 * 32) * seen
    assert forward_flops(config, params, 20, causal=False) == 2 * weights * 20 + 3 * 2 * (2 * 32) * 20 * 20


@pytest.mark.parametrize("name", CONFIGS)
def test_every_matrix_product_of_the_program_is_counted(name):
    config, params = model(**CONFIGS[name])
    tokens = jax.ShapeDtypeStruct((1, 24), "int32")
    traced = jax.make_jaxpr(lambda params, tokens: gpt.apply(config, params, tokens))(params, tokens)
    assert products(traced.jaxpr) == forward_flops(config, params, 24, causal=False)


def test_a_training_step_as_xla_counts_it():
    config, params = model(width=256, heads=2, context=64, layers=2)
    tokens = jax.ShapeDtypeStruct((4, 64), "int32")
    loss = lambda params, tokens: jnp.mean(gpt.apply(config, params, tokens) ** 2)
    analysis = jax.jit(jax.grad(loss)).lower(params, tokens).cost_analysis()
    counted = 4 * training_flops(config, params, 64, causal=False)
    assert counted < analysis["flops"] < 1.03 * counted  # what is elementwise comes on top


def test_gpt2_has_its_published_size():
    config = ModelConfig(vocab_size=50257, context=1024, layers=12, heads=12, width=768, bias=True)
    params = jax.eval_shape(lambda: gpt.init_params(config, jax.random.key(0)))
    # nanoGPT's estimate: 6 N + 12 L H Q T a token, N without the position embedding.
    estimate = 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024
    assert training_flops(config, params, 1024, causal=False) / 1024 == pytest.approx(estimate, rel=2e-3)
