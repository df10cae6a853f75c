"""The forms of momentum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import chain, ema
from jaxopt_mini.transforms import scale, trace
from tests.goldens import deviation
from tests.harness import Golden


def test_dampening_is_that_of_torch():
    golden = Golden(
        "torch_sgd_dampening",
        lambda h: chain(trace(h["momentum"], dampening=h["dampening"]), scale(-h["lr"])),
    )
    assert deviation(golden) < 1e-5


def test_an_average_is_a_sum_of_smaller_terms():
    grads = jnp.array([1.0, -2.0, 3.0])
    average, total = ema(0.9, debias=False), chain(scale(0.1), trace(0.9))
    states = average.init(grads[0]), total.init(grads[0])
    for grad in grads:
        (a, first), (b, second) = average.update(grad, states[0]), total.update(grad, states[1])
        states = first, second
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_average_without_bias_of_a_constant_is_the_constant():
    tx, state = ema(0.9), None
    state = tx.init(jnp.float32(0))
    for _ in range(5):
        updates, state = tx.update(jnp.float32(2), state)
        np.testing.assert_allclose(updates, 2.0, rtol=1e-5)


def test_sums_in_float16_are_not_stored_wider_but_added_wider():
    tx = trace(0.5)
    state = tx.init(jnp.zeros(1, jnp.float16))
    updates, state = jax.jit(tx.update)(jnp.full((1,), 1e-3, jnp.float32), state)
    assert (updates.dtype, state.trace.dtype) == (jnp.float32, jnp.float16)
    np.testing.assert_allclose(updates, 1e-3, rtol=1e-7)


@pytest.mark.parametrize("link", [ema, trace])
def test_a_decay_of_one_is_rejected(link):
    with pytest.raises(ValueError, match=r"decay=1.0 is out of range"):
        link(1.0)
