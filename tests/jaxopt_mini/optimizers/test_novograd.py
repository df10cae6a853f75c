"""Specific to NovoGrad: one second moment a layer, and a decay that may be scheduled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import novograd
from tests.harness import SHAPES, normal, permissive


def test_first_update_has_length_one_in_each_layer():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1)
    updates, state = novograd(1.0, eps=0.0).update(grads, novograd(1.0).init(params), params)
    assert jax.tree.map(jnp.shape, state[0].nu) == {"embed": (), "blocks": {"kernel": (2,), "bias": (2,)}, "scale": ()}
    np.testing.assert_allclose(np.linalg.norm(updates["blocks"]["kernel"], axis=(1, 2)), 1.0, rtol=1e-5)


def test_decay_may_be_a_schedule_and_optax_fails():
    params, grads = jnp.float32(2.0), jnp.float32(0.0)

    def second_update(make):
        tx = make(1.0, b1=0.0, weight_decay=lambda count: 0.25 * jnp.float32(count))
        state = tx.init(params)
        for _ in range(2):
            update, state = tx.update(grads, state, params)
        return float(update)

    assert second_update(novograd) == -0.5
    with permissive(), pytest.raises(TypeError):
        second_update(optax.novograd)
