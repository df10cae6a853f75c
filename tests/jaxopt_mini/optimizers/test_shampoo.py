"""Shampoo against its formula in NumPy, and in rotated coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import scale_by_shampoo, shampoo
from tests.harness import normal, run


def root(factor, power, ridge):
    values, vectors = np.linalg.eigh(factor)
    return vectors @ np.diag(np.maximum(values, ridge * values[-1]) ** -power) @ vectors.T


def formula(start, grads, *, graft, largest, every=3, b1=0.9, b2=0.99, beta=0.8, eps=1e-8, ridge=1e-4):
    """Twelve steps of the paper's update of one matrix, in float64."""
    p, m, v = np.float64(start), 0.0, 0.0
    present = [axis for axis in (0, 1) if p.shape[axis] <= largest]
    factors, roots = [0.0, 0.0], [np.eye(n) for n in p.shape]
    for t, g in enumerate(np.float64(grads)):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1 ** (t + 1))
        adam = m_hat / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        for axis, product in ((0, g @ g.T), (1, g.T @ g)):
            factors[axis] = beta * factors[axis] + (1 - beta) * product
        if (t + 1) % every == 0:
            for axis in present:
                roots[axis] = root(factors[axis] / (1 - beta ** (t + 1)), 0.5 / len(present), ridge)
        step = roots[0] @ m_hat @ roots[1]
        if graft:
            step = adam if t + 1 < every else step * np.linalg.norm(adam) / np.linalg.norm(step)
        p = p - 0.1 * step
    return p


@pytest.mark.parametrize("graft, largest", [(True, 100), (False, 100), (True, 5), (False, 5)])
def test_follows_the_formula_on_both_sides_or_one(graft, largest):
    start, grads = normal((5, 7), 0), normal((5, 7), 1, 12)
    how = {"b2": 0.99, "shampoo_beta": 0.8, "ridge": 1e-4, "precondition_frequency": 3}
    tx = shampoo(0.1, graft=graft, max_precond_dim=largest, **how)
    got, _ = jax.jit(lambda p, g: run(tx, {"w": p}, {"w": g}))(start, grads)
    np.testing.assert_allclose(got["w"], formula(start, grads, graft=graft, largest=largest), atol=2e-5)


def test_rotated_gradients_give_the_rotated_step():
    u, v = (
        np.linalg.qr(np.random.default_rng(i).standard_normal((n, n)))[0].astype(np.float32)
        for i, n in ((0, 4), (1, 6))
    )
    grads = normal((4, 6), 1, 4)
    tx = scale_by_shampoo(graft=False, precondition_frequency=1, ridge=1e-4)

    def step(grads):
        state = tx.init({"w": grads[0]})
        for grad in grads:
            updates, state = tx.update({"w": grad}, state)
        return updates["w"]

    plain, turned = jax.jit(step)(grads), jax.jit(step)(jnp.asarray(u @ np.asarray(grads) @ v.T))
    np.testing.assert_allclose(turned, u @ np.asarray(plain) @ v.T, atol=1e-4 * np.abs(plain).max())


def test_a_singular_factor_needs_a_bound():
    with pytest.raises(ValueError, match="ridge=0 and root_eps=0 give no root"):
        shampoo(0.1, ridge=0.0)
    shampoo(0.1, ridge=0.0, root_eps=1e-12)


def test_unknown_names_are_rejected():
    with pytest.raises(ValueError, match="unknown graft 'adagard' .did you mean 'adagrad'"):
        shampoo(0.1, graft="adagard")
