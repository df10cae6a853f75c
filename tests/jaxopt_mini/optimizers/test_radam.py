"""Specific to RAdam: the digits of the rectification."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import radam
from tests.harness import SHAPES, normal, permissive, run


def rectification(t, b2):
    """r in float64."""
    limit, weight = 2 / (1 - b2) - 1, 1 - b2**t
    rho = limit - 2 * t * (1 - weight) / weight
    return np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))


def sixth_update(make, b2):
    tx = make(1.0, b2=b2)
    state = tx.init(jnp.zeros(()))
    for _ in range(6):
        update, state = tx.update(jnp.float32(1.0), state)
    return -float(update)


@pytest.mark.parametrize("b2, fault", [(0.999, 5e-3), (0.9999, 0.5)])
def test_r_keeps_its_digits_and_optax_loses_them(b2, fault):
    np.testing.assert_allclose(sixth_update(radam, b2), rectification(6, b2), rtol=1e-3)
    with permissive(), pytest.raises(AssertionError):
        np.testing.assert_allclose(sixth_update(optax.radam, b2), rectification(6, b2), rtol=fault)


@pytest.mark.parametrize(
    "keywords",
    [{"b2": 0.9}, {"nesterov": True, "b2": 0.9}, {"threshold": 8.0, "b2": 0.95, "eps_root": 1e-6}],
    ids=lambda keywords: "-".join(keywords),
)
def test_is_otherwise_optax(keywords):
    """Where b2 is far from 1, float32 suffices for Optax too; and either state continues under the other."""
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 100)
    first, second = ({k: v[s] for k, v in grads.items() if k != "blocks"} for s in (slice(50), slice(50, None)))
    params.pop("blocks")
    rules = radam(0.1, **keywords), optax.radam(0.1, **keywords)
    with permissive():
        ways = [jax.jit(lambda p, g, s, tx=tx: run(tx, p, g, s)) for tx in rules]
        halves = [way(params, first, tx.init(params)) for way, tx in zip(ways, rules, strict=True)]
        ends = [way(half[0], second, half[1]) for way in ways for half in halves]
    for end in ends:
        chex.assert_trees_all_equal_structs(end, ends[-1])
        chex.assert_trees_all_close(end, ends[-1], rtol=1e-5, atol=5e-6)


def test_eps_before_or_after_the_correction():
    """One entry whose gradient is as small as eps, at the first step that divides."""
    updates = []
    for correct_eps in (False, True):
        tx = radam(1.0, b2=0.9, eps=1e-3, correct_eps=correct_eps)
        state = tx.init(jnp.zeros(()))
        for _ in range(6):
            update, state = tx.update(jnp.float32(1e-3), state)
        updates.append(-float(update) / rectification(6, 0.9))
    np.testing.assert_allclose(updates, [1 / 2, 1 / (1 + 1 / np.sqrt(1 - 0.9**6))], rtol=1e-3)
