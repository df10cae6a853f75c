"""Specific to AdamW: decay that no gradient changes, where the mask lets it."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adamw, my_adamw


def test_has_the_name_that_people_ask_for():
    assert my_adamw is adamw


@pytest.mark.parametrize("decay", [0.5, lambda count: 0.5])
def test_decays_what_the_mask_chooses_whatever_the_gradient(decay):
    tx = adamw(0.1, weight_decay=decay, mask={"w": True, "b": False})
    params = {"w": jnp.array([2.0]), "b": jnp.array([2.0])}
    grads = {"w": jnp.zeros(1), "b": jnp.zeros(1)}
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)


def test_requires_the_parameters():
    tx, params = adamw(0.1), {"w": jnp.ones(1)}
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))
