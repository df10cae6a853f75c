"""Specific to Rprop: each call returns its own step, and what a schedule means."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import rprop
from tests.harness import SHAPES, normal, permissive


def updates_and_states(tx, grads):
    params = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads)
    _, results = jax.lax.scan(lambda state, g: (tx.update(g, state)[1], tx.update(g, state)), tx.init(params), grads)
    return results


def test_the_first_call_moves_and_optax_does_not():
    for make, first in ((rprop, -0.1), (optax.rprop, 0.0)):
        update, _ = make(0.1).update(jnp.float32(5.0), make(0.1).init(jnp.float32(0.0)))
        np.testing.assert_allclose(update, first, rtol=1e-6)


def test_optax_is_one_call_late_with_the_same_states():
    """Except after a sign change, where both skip a step and Optax drops its delayed one."""
    grads = jax.tree.map(lambda g: g + 1, normal(SHAPES, 0, 100))
    ours, state = updates_and_states(rprop(0.1), grads)
    with permissive():
        theirs, other = updates_and_states(optax.rprop(0.1), grads)
    chex.assert_trees_all_equal_structs(state, other)
    chex.assert_trees_all_close(state, other, rtol=1e-5)
    for u, late, g in zip(*map(jax.tree.leaves, (ours, theirs, grads)), strict=True):
        turned = (g[1:] * u[:-1]) > 0  # u points downhill, against the gradient before
        np.testing.assert_allclose(late[1:], np.where(turned, 0, u[:-1]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("grad, expected", [(1.0, 0.5), (-1.0, 0.1)])
def test_steps_stay_within_their_bounds(grad, expected):
    tx = rprop(0.3, eta_plus=10.0, eta_minus=0.01, min_step_size=0.1, max_step_size=0.5)
    state = tx.init(jnp.zeros(()))
    for g in (1.0, grad):
        _, state = tx.update(jnp.float32(g), state)
    np.testing.assert_allclose(state[0].step_sizes, expected, rtol=1e-6)


def test_a_constant_schedule_is_a_number():
    grads = normal((3,), 0, 20)
    ends = [
        updates_and_states(rprop(rate, **bounds), grads)[0]
        for rate, bounds in (
            (0.25, {"min_step_size": 0.25 * 1e-3, "max_step_size": 0.25 * 2.0}),
            (lambda count: 0.25, {"min_step_size": 1e-3, "max_step_size": 2.0}),
        )
    ]
    chex.assert_trees_all_close(*ends, rtol=1e-5)


def test_complex_leaves_are_rejected():
    with pytest.raises(ValueError, match="rprop does not support complex leaves"):
        rprop(0.1).init(jnp.ones(2, jnp.complex64))
