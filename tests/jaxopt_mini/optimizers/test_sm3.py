"""Specific to SM3: sums that cover AdaGrad's, in vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import ParamLayout, adagrad, sm3
from tests.harness import normal, permissive, run

ROW = {"a": jnp.zeros(4)}


def test_a_vector_is_adagrad():
    grads = {"a": normal((4,), 0, 20)}
    tx = adagrad(0.1, initial_accumulator_value=0.0, eps=1e-8)
    ends = [jax.jit(lambda g, tx=tx: run(tx, ROW, g)[0])(grads)["a"] for tx in (sm3(0.1, momentum=0.0), tx)]
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_the_sum_is_never_less_than_adagrads():
    grads = normal((5, 3, 4), 0)
    _, state = jax.jit(lambda g: run(sm3(0.1), jnp.zeros((3, 4)), g))(grads)
    row, column = state[0].mu
    assert np.all(np.minimum(row[:, None], column[None, :]) >= np.sum(np.square(grads), 0) * (1 - 1e-6))


def test_a_single_number_is_a_vector_of_one_and_optax_fails():
    def update(tx):
        return tx.update(jnp.float32(2.0), tx.init(jnp.zeros(())))[0]

    np.testing.assert_allclose(update(sm3(0.5, momentum=0.0)), -0.5, rtol=1e-6)
    with permissive(), pytest.raises(IndexError):
        update(optax.sm3(0.5, momentum=0.0))


def test_stacked_axes_have_no_vector():
    layout = ParamLayout("matrix", (1,), (0,), (2,))
    state = sm3(0.1, layout=layout).init(jnp.zeros((3, 7, 4)))
    assert jax.tree.map(jnp.shape, state[0].mu) == [(3, 7), (7, 4)]
