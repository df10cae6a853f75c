"""SOAP in rotated coordinates, its bases, and the first step."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import scale_by_soap, soap
from tests.harness import normal, run


def last_step(tx, grads):
    def steps(grads):
        state = tx.init({"w": grads[0]})
        for grad in grads:
            updates, state = tx.update({"w": grad}, state)
        return updates["w"]

    return np.asarray(jax.jit(steps)(grads))


def test_rotated_gradients_give_the_rotated_step():
    u, v = (np.linalg.qr(np.random.default_rng(i).standard_normal((5, 5)))[0].astype(np.float32) for i in (0, 1))
    grads, tx = normal((5, 5), 2, 4), scale_by_soap(precondition_frequency=2)
    plain, turned = last_step(tx, grads), last_step(tx, jnp.asarray(u @ np.asarray(grads) @ v.T))
    np.testing.assert_allclose(turned, u @ plain @ v.T, atol=2e-3 * np.abs(plain).max())


def test_power_iteration_finds_the_eigenvectors():
    """For a gradient with constant directions, in the right order after the order has been reversed."""
    grads = {"w": jnp.stack([jnp.diag(jnp.array([1.0, 2.0, 4.0]))] + [jnp.diag(jnp.array([4.0, 2.0, 1.0]))] * 60)}
    _, (state, *_) = jax.jit(lambda g: run(soap(0.0, precondition_frequency=1), {"w": jnp.ones((3, 3))}, g))(grads)
    for bases in state.bases:
        np.testing.assert_allclose(np.abs(bases["w"]), np.eye(3), atol=1e-5)
    assert np.all(np.diff(np.diag(state.nu["w"])) < 0)  # sorted along with the basis


def test_the_first_step_moves_nothing_not_even_by_decay():
    params, grads = {"w": normal((2, 3), 0), "b": normal((3,), 1)}, {"w": normal((2, 3), 2, 1), "b": normal((3,), 3, 1)}
    new, (state, *_) = run(soap(0.1, weight_decay=0.5), params, grads)
    for name in params:
        np.testing.assert_array_equal(new[name], params[name])
    assert not np.any(state.mu["w"]) and not np.any(state.nu["w"])
