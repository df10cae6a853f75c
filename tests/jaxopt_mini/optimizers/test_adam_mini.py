"""Specific to Adam-mini: which weights share a second moment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, adam, adam_mini
from jaxopt_mini.tree import nbytes

SHAPES = {"embed": (9, 6), "query": (6, 4, 2), "mlp": {"kernel": (6, 8), "bias": (8,)}, "norm": (6,)}
LAYOUT = {
    "embed": ParamLayout("embedding", (), (0,), (1,)),
    "query": ParamLayout("matrix", (), (0,), (1, 2)),
    "mlp": {"kernel": ParamLayout("matrix", (), (0,), (1,)), "bias": ParamLayout("vector", (), (), (0,))},
    "norm": ParamLayout("vector", (), (), (0,)),
}
PARAMS = jax.tree.map(jnp.zeros, SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple))


def test_blocks_are_tokens_heads_outputs_entries_and_vectors():
    nu = adam_mini(0.1, heads={"query": 4}, layout=LAYOUT).init(PARAMS)[0].nu
    shapes = jax.tree.map(jnp.shape, nu)
    assert shapes["embed"] == (9, 1)
    assert shapes["query"] == (1, 4, 1, 1)
    assert shapes["mlp"] == {"kernel": (1, 8), "bias": (8,)}
    assert shapes["norm"] == (1,)


def test_heads_lie_side_by_side_in_one_axis_or_have_one_of_their_own():
    """The same kernel, with the outputs in one axis or in two."""
    grad = jnp.arange(48.0).reshape(6, 8)
    flat, split = ({"query": grad}, {"query": grad.reshape(6, 4, 2)})
    one = adam_mini(0.1, heads={"query": 4}, layout={"query": ParamLayout("matrix", (), (0,), (1,))})
    two = adam_mini(0.1, heads={"query": 4}, layout={"query": LAYOUT["query"]})
    a, b = (tx.update(tree, tx.init(tree), tree)[0]["query"] for tx, tree in ((one, flat), (two, split)))
    np.testing.assert_allclose(a, b.reshape(6, 8), rtol=1e-6)


def test_half_of_adams_state_is_saved():
    params = {"kernel": jnp.zeros((256, 256))}
    assert nbytes(adam_mini(0.1).init(params)) < 0.51 * nbytes(adam(0.1).init(params))


@pytest.mark.parametrize("heads, message", [({"query": 3}, "heads=3"), ({"queries": 4}, "queries.*query")])
def test_wrong_heads_are_rejected(heads, message):
    with pytest.raises(ValueError, match=message):
        adam_mini(0.1, heads=heads, layout=LAYOUT).init(PARAMS)
