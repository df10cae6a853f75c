"""Layer-wise decay against one optimizer per layer, each with its own learning rate."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxopt_mini import PerLayer, adamw, chain, ema_params, layer_decay, partition, schedule_free_adamw, sgd
from jaxopt_mini.layout import infer
from tests.harness import normal

SHAPES = {
    "embed": {"embedding": (7, 4)},
    "blocks": {"kernel": (3, 4, 4), "bias": (3, 4)},
    "norm": {"scale": (4,)},
    "head": {"kernel": (4, 7)},
}


def test_each_layer_has_the_learning_rate_of_its_depth():
    params, depth = normal(SHAPES, 0), {"embed": 4, 0: 3, 1: 2, 2: 1, "rest": 0}
    parts = {label: adamw(0.1 * 0.5**power, weight_decay=0.1) for label, power in depth.items()}
    labels = jax.tree.map(
        lambda entry: PerLayer((0, 1, 2)) if entry.stacked else "embed" if entry.role == "embedding" else "rest",
        infer(params),
    )
    ours, theirs = layer_decay(adamw(0.1, weight_decay=0.1), decay=0.5), partition(parts, labels)
    states = [ours.init(params), theirs.init(params)]
    chex.assert_trees_all_equal_structs(states[0], adamw(0.1).init(params))
    for seed in range(1, 4):
        grads = normal(SHAPES, seed)
        a, states[0] = ours.update(grads, states[0], params)
        b, states[1] = theirs.update(grads, states[1], params)
        chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("inner", [schedule_free_adamw(0.1), ema_params(sgd(0.1)), chain(ema_params(sgd(0.1)))])
def test_an_average_inside_is_refused(inner):
    with pytest.raises(ValueError, match="averages the parameters"):
        layer_decay(inner).init(normal(SHAPES, 0))
    ema_params(layer_decay(sgd(0.1))).init(normal(SHAPES, 0))


def test_a_model_without_one_stack_of_layers_is_refused():
    with pytest.raises(ValueError, match="no parameter that is stacked"):
        layer_decay(sgd(0.1)).init({"w": jnp.ones((2, 2))})
    two = {name: {"kernel": jnp.ones((n, 4, 4)), "bias": jnp.ones((n, 4))} for name, n in (("a", 2), ("b", 3))}
    with pytest.raises(ValueError, match="stacks of 2, 3 layers"):
        layer_decay(sgd(0.1)).init(two)
