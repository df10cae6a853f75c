"""Every optimizer finds known minima: of Rosenbrock's function, and of a convex regression.

The learning rate decays to zero, and the best of a few peaks around the one of its row counts: these tests are about
the optimizer, not about the number in its row.
"""

from __future__ import annotations

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, apply_updates
from tests.jaxopt_mini.test_laws import law

STEPS = 1000
RATES = 10.0 ** jnp.arange(-2, 1.5, 0.5)  # times the row's
MATRIX, BIAS = ParamLayout("matrix", (), (0,), (1,)), ParamLayout("vector", (), (), (0,))
CLASSES, FEATURES, EXAMPLES = 3, 4, 60
RIDGE = 0.01


def last_losses(case, loss, params, layout):
    """The loss after ``STEPS`` steps for each of the peaks, vmapped."""

    def trained(rate):
        tx = case.make(layout, learning_rate=lambda t: rate * (1 - t / STEPS))

        def step(carry, t):
            params, state = carry
            extra_args = case.extra(loss, params, t)
            updates, state = tx.update(jax.grad(loss)(params), state, params, **extra_args)
            return (apply_updates(params, updates), state), None

        return loss(jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))[0][0])

    return np.asarray(jax.jit(jax.vmap(trained))(case.learning_rate * RATES))


def rosenbrock(params):
    """Three valleys, one in each column; their floors end at (1, 1)."""
    x, y = params["kernel"]
    return jnp.sum((1 - x) ** 2 + 100 * (y - x**2) ** 2)


@law
def test_follows_the_valley_of_rosenbrock(case):
    """From the usual start (-1.2, 1) and two others the loss falls from 48 to below 5, which no wall alone gives."""
    params = {"kernel": jnp.array([[-1.2, 0.0, 0.5], [1.0, 0.5, -0.2]])}
    assert rosenbrock(params) > 48
    assert np.nanmin(last_losses(case, rosenbrock, params, {"kernel": MATRIX})) < 5


@functools.cache
def regression():
    """Loss of a logistic regression with a ridge, over {"kernel", "bias"}, and its minimum by Newton's method."""
    generator = np.random.default_rng(0)
    labels = generator.integers(CLASSES, size=EXAMPLES)
    centres = generator.standard_normal((CLASSES, FEATURES))
    inputs = jnp.asarray(centres[labels] + generator.standard_normal((EXAMPLES, FEATURES)), jnp.float32)

    def loss(params):
        logits = jax.nn.log_softmax(inputs @ params["kernel"] + params["bias"][None])
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
        return -jnp.mean(logits[jnp.arange(EXAMPLES), labels]) + RIDGE / 2 * squares

    start = {"kernel": jnp.zeros((FEATURES, CLASSES)), "bias": jnp.zeros(CLASSES)}
    flat, back = jax.flatten_util.ravel_pytree(start)
    for _ in range(10):
        flat -= jnp.linalg.solve(jax.hessian(lambda w: loss(back(w)))(flat), jax.grad(lambda w: loss(back(w)))(flat))
    return loss, start, float(loss(back(flat)))


@pytest.mark.slow
@law
def test_solves_a_logistic_regression(case):
    """It closes 95 % of the gap between the initial and the minimal loss."""
    loss, start, optimum = regression()
    gap = np.nanmin(last_losses(case, loss, start, {"kernel": MATRIX, "bias": BIAS})) - optimum
    assert -1e-5 < gap < 0.05 * (float(loss(start)) - optimum)
