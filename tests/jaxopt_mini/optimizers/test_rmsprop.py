"""Specific to RMSProp: the variance, the place of the rate, and Adam as its limit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import adam, rmsprop
from tests.harness import SHAPES, normal, run


def test_the_variance_of_a_constant_gradient_gives_finite_steps():
    """mean(g^2) - mean(g)^2 is 0 up to rounding errors of either sign."""
    params = jnp.zeros(1000)
    grads = jnp.broadcast_to(normal((1000,), 0), (200, 1000))
    tx = rmsprop(0.1, decay=0.5, eps=0.0, eps_in_sqrt=False, centered=True, initial_scale=0.0)
    _, state = jax.jit(lambda p, g: run(tx, p, g))(params, grads)
    rms = state[0]
    assert jnp.any(rms.nu - jnp.square(rms.mu) < 0)
    guarded = rmsprop(0.1, decay=0.5, eps=1e-12, centered=True)
    chex.assert_tree_all_finite(guarded.update(grads[0], (rms, *state[1:]))[0])


def test_corrected_it_is_adam_without_a_mean():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 20)
    words = {"eps_in_sqrt": False, "bias_correction": True, "decay": 0.99}
    ends = [
        jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)[0]
        for tx in (rmsprop(0.1, **words), adam(0.1, b1=0.0, b2=0.99))
    ]
    chex.assert_trees_all_close(*ends, rtol=1e-5, atol=1e-6)


def test_the_momentum_may_sum_steps_or_directions():
    """After a first step with learning rate 1 it is 0: a sum of steps continues, a sum of directions doesn't."""

    def second_update(**keywords):
        tx = rmsprop(lambda count: jnp.where(count == 0, 1.0, 0.0), momentum=0.5, decay=0.0, eps=0.0, **keywords)
        state = tx.init(jnp.zeros(()))
        for _ in range(2):
            update, state = tx.update(jnp.float32(2.0), state)
        return update

    got = jax.tree.map(float, (second_update(), second_update(rate_in_momentum=False)))
    np.testing.assert_allclose(got, (-0.5, 0.0))
