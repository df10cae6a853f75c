"""PSGD Kron against its formula in NumPy; that it whitens; when it fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import kron
from jaxopt_mini.matrices import Sides
from jaxopt_mini.optimizers._kron import fit, seldom
from tests.harness import normal, run


def bound(x):
    """The bound of the norm by which the learning rate is divided."""
    longest = x @ x[:, np.argmax(np.linalg.norm(x, axis=0))]
    return np.linalg.norm(x @ longest / np.linalg.norm(longest))


def formula(start, grads, largest, b1=0.9, rate=0.1, max_rms=1.1):
    """The paper's update of one matrix in float64, with inverses instead of solves and full factors."""
    p, m, factors = np.float64(start), 0.0, [np.eye(n) for n in start.shape]
    for t, g in enumerate(np.float64(grads)):
        m = b1 * m + (1 - b1) * g
        m_hat = m / (1 - b1 ** (t + 1))
        key = jax.random.fold_in(jax.random.key(0), t)
        v = np.float64(jax.random.normal(key, start.shape))
        a = factors[0] @ m_hat @ factors[1].T
        b = np.linalg.inv(factors[0]).T @ v @ np.linalg.inv(factors[1])
        for axis, (aa, bb) in enumerate(((a @ a.T, b @ b.T), (a.T @ a, b.T @ b))):
            if start.shape[axis] <= largest:
                change = np.triu(aa - bb) / bound(aa + bb)
            else:
                change = np.diag(np.diag(aa - bb)) / np.max(np.diag(aa + bb))
            factors[axis] = factors[axis] - rate * change @ factors[axis]
        step = factors[0].T @ factors[0] @ m_hat @ factors[1].T @ factors[1]
        p = p - 0.1 * step * min(1.0, max_rms / np.sqrt(np.mean(step**2)))
    return p


@pytest.mark.parametrize("largest", [100, 5, 0])
def test_follows_the_formula_with_triangular_and_diagonal_factors(largest):
    start, grads = normal((5, 7), 0), normal((5, 7), 1, 12)
    tx = kron(0.1, probability=1.0, damping=0.0, relative_damping=0.0, max_size_triangular=largest)
    got, _ = jax.jit(lambda p, g: run(tx, {"w": p}, {"w": g}))(start, grads)
    np.testing.assert_allclose(got["w"], formula(start, grads, largest), atol=2e-5)


def test_preconditioned_gradients_become_white():
    """Gradients C G D' of normal G, 400 times larger in one direction than in another, end within 1.5 of each other."""
    generator = np.random.default_rng(0)
    c, d = (np.linalg.qr(generator.standard_normal((n, n)))[0] * np.geomspace(0.2, 4, n) for n in (4, 6))
    grads = jnp.asarray(c @ generator.standard_normal((4000, 4, 6)) @ d.T, jnp.float32)
    probes = jnp.asarray(generator.standard_normal((4000, 4, 6)), jnp.float32)
    rates = jnp.asarray(np.geomspace(0.2, 0.005, 4000), jnp.float32)

    def step(factors, inputs):
        return fit(factors, *inputs), None

    eyes = Sides(jnp.eye(4), jnp.eye(6))
    factors, _ = jax.jit(lambda *inputs: jax.lax.scan(step, eyes, inputs))(grads, probes, rates)
    for q, mixing in zip(factors, (c, d), strict=True):
        white = np.float64(q).T @ q @ mixing  # P C, whose square the mean of (P g)(P g)' is proportional to
        values = np.linalg.svd(white, compute_uv=False)
        assert values[0] / values[-1] < 1.5
        np.testing.assert_allclose(q, np.triu(q), atol=0)


def test_fits_as_often_as_it_should():
    params, grads = {"w": normal((3, 4), 0)}, {"w": normal((3, 4), 1, 6)}

    def changes(probability):
        tx, counts = kron(0.1, probability=probability), []
        step, state, before = jax.jit(tx.update), tx.init(params), np.eye(3)
        for t in range(6):
            _, state = step({"w": grads["w"][t]}, state, params)
            after = np.asarray(state[0].factors[0]["w"])
            counts.append(bool(np.any(after != before)))
            before = after
        return counts

    assert changes(0.0) == [False] * 6
    assert changes(0.5) == [False, True] * 3
    assert changes(lambda count: jnp.where(count < 4, 0.25, 1.0)) == [False, False, False, True, True, True]
    np.testing.assert_allclose(seldom(jnp.array([0, 500, 1000, 10**6])), [1, 1, np.exp(-0.5), 0.03], rtol=1e-6)


@pytest.mark.parametrize(
    "diagonal, lengths, ranks",
    [("long", (3, 4), (2, 2)), ("longer", (3, 4), (2, 1)), ("longer", (4, 4), (2, 2)), ("longest", (4, 4), (1, 2))],
)
def test_sides_with_a_diagonal_factor(diagonal, lengths, ranks):
    state, *_ = kron(0.1, diagonal=diagonal).init({"w": jnp.ones(lengths)})
    assert tuple(factor["w"].ndim for factor in state.factors) == ranks


def test_factors_stay_finite_without_gradients():
    params, grads = {"w": jnp.ones((2, 3))}, {"w": jnp.zeros((2000, 2, 3))}
    (_, (state, *_)) = jax.jit(lambda g: run(kron(0.1, probability=1.0), params, g))(grads)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
