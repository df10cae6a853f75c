"""Specific to SGD: the sum with and without dampening."""

import jax.numpy as jnp
import pytest

from jaxopt_mini import sgd


@pytest.mark.parametrize("keywords", [{}, {"momentum": 0.9, "nesterov": True}])
def test_dampening_needs_a_momentum_without_nesterov(keywords):
    with pytest.raises(ValueError, match="dampening=0.5 needs momentum without nesterov"):
        sgd(0.1, dampening=0.5, **keywords)


def test_no_momentum_takes_no_memory():
    assert not any(jnp.size(leaf) for link in sgd(0.1).init({"w": jnp.ones(3)}) for leaf in link)


def test_dampening_spares_only_the_first_gradient():
    tx = sgd(1.0, momentum=0.5, dampening=0.75)
    state = tx.init(jnp.zeros(()))
    steps = []
    for grad in (1.0, 1.0, 2.0):
        update, state = tx.update(jnp.float32(grad), state)
        steps.append(update.item())
    assert steps == [-1.0, -0.75, -0.875]
