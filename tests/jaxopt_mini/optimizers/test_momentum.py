"""Specific to momentum: its relation to the summing form."""

import chex
import jax
import jax.numpy as jnp

from jaxopt_mini import momentum, sgd
from tests.harness import SHAPES, normal, run


def test_is_the_sum_at_a_smaller_rate():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 20)
    ends = [
        jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)[0]
        for tx in (momentum(0.5, decay=0.75), sgd(0.125, momentum=0.75))
    ]
    chex.assert_trees_all_close(*ends, rtol=1e-5, atol=1e-6)


def test_debias_makes_the_first_step_a_whole_gradient():
    tx = momentum(0.5, decay=0.9, debias=True)
    update, _ = tx.update(jnp.float32(3.0), tx.init(jnp.float32(0.0)))
    assert abs(update.item() + 1.5) < 1e-6
