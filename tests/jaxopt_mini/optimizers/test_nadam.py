"""Specific to NAdam: the momentum that grows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import adam, nadam
from tests.harness import SHAPES, normal, run


def test_is_adam_with_nesterov():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 5)
    ends = [jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads) for tx in (nadam(0.1), adam(0.1, nesterov=True))]
    chex.assert_trees_all_equal(*ends, strict=True)


@pytest.mark.parametrize("done, share", [(0, 1 - 0.96**0.5 / 2), (10**6, 1.0)])
def test_the_share_of_the_momentum_grows_from_half_to_all_of_b1(done, share):
    tx = nadam(1.0, b1=0.8, momentum_decay=0.5)
    moments, *rest = tx.init(jnp.zeros(()))
    _, state = tx.update(jnp.float32(1.0), (moments._replace(count=jnp.int32(done)), *rest))
    np.testing.assert_allclose(state[0].product, 0.8 * share, rtol=1e-6)
