"""Specific to Adan: the weight of the differences, and decay by division."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import adan
from tests.harness import SHAPES, normal, permissive, run


def adan_in_numpy(grads, b1, b2, b3):
    """Algorithm 1 of the paper for single numbers, its betas being 1 - b: the last direction."""
    m = v = n = before = 0.0
    for t, g in enumerate(grads, 1):
        difference = 0.0 if t == 1 else g - before
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * difference
        n = b3 * n + (1 - b3) * (g + b2 * difference) ** 2
        before = g
    return (m / (1 - b1**t) + b2 * v / (1 - b2**t)) / np.sqrt(n / (1 - b3**t))


def last_update(tx, grads):
    state = tx.init(jnp.zeros(()))
    for grad in grads:
        update, state = tx.update(jnp.float32(grad), state, jnp.zeros(()))
    return float(update)


def test_weighs_differences_as_the_paper_does_and_optax_does_not():
    grads, words = (1.0, -1.0, 1.0, -1.0), {"eps": 0.0, "eps_root": 0.0}
    expected = -adan_in_numpy(grads, 0.98, 0.92, 0.99)
    np.testing.assert_allclose(last_update(adan(1.0, **words), grads), expected, rtol=1e-4)
    with permissive(), pytest.raises(AssertionError):
        np.testing.assert_allclose(last_update(optax.adan(1.0, **words), grads), expected, rtol=0.1)


def test_is_otherwise_optax():
    """Where the gradient stays the same there are no differences to weigh."""
    params = normal(SHAPES, 0)
    grads = jax.tree.map(lambda g: jnp.stack([g] * 100), normal(SHAPES, 1))
    words = {"weight_decay": 0.1, "b3": 0.9}
    with permissive():
        ours, theirs = (
            jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)
            for tx in (adan(0.1, **words), optax.adan(0.1, **words))
        )
    chex.assert_trees_all_equal_structs(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.5, lambda count: 0.5])
def test_proximal_decay_divides_where_the_mask_lets_it(rate):
    tx = adan(rate, eps=0.0, eps_root=0.0, weight_decay=2.0, proximal=True, mask={"w": True, "b": False})
    params = {"w": jnp.float32(3.0), "b": jnp.float32(3.0)}
    updates, _ = tx.update({"w": jnp.float32(1.0), "b": jnp.float32(1.0)}, tx.init(params), params)
    np.testing.assert_allclose(params["w"] + updates["w"], (3.0 - 0.5) / (1 + 0.5 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -0.5, rtol=1e-5)
