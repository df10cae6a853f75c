"""Layouts of parameters, given or inferred."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import ParamLayout, layout

CASES = {
    "a bias": ({"dense": {"bias": (3,)}}, ParamLayout("vector", (), (), (0,))),
    "a number": ({"scale": ()}, ParamLayout("vector")),
    "a kernel": ({"dense": {"kernel": (3, 2)}}, ParamLayout("matrix", (), (0,), (1,))),
    "a convolution": ({"conv": {"kernel": (3, 3, 4, 5)}}, ParamLayout("matrix", (), (0, 1, 2), (3,))),
    "an embedding": ({"wte": {"embedding": (9, 4)}}, ParamLayout("embedding", (), (0,), (1,))),
    "a head": ({"lm_head": {"kernel": (4, 9)}}, ParamLayout("head", (), (0,), (1,))),
    "a stacked kernel": ({"blocks": {"kernel": (6, 3, 2)}}, ParamLayout("matrix", (0,), (1,), (2,))),
    "a stacked bias": ({"layers": {"mlp": {"bias": (6, 2)}}}, ParamLayout("vector", (0,), (), (1,))),
    "a list of layers": ({"layers": [{"kernel": (3, 2)}]}, ParamLayout("matrix", (), (0,), (1,))),
    "numbered layers": ({"layers": {"0": {"kernel": (3, 2)}}}, ParamLayout("matrix", (), (0,), (1,))),
    "a matrix called stack": ({"stack": (3, 2)}, ParamLayout("matrix", (), (0,), (1,))),
    "a number in a stack": ({"stack": {"scale": ()}}, ParamLayout("vector")),
}


@pytest.mark.parametrize("name", CASES)
def test_infer(name):
    shapes, expected = CASES[name]
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert jax.tree.leaves(layout.infer(params)) == [expected]
    assert jax.tree.structure(layout.infer(params)) == jax.tree.structure(params)


def test_bad_entries_are_rejected():
    with pytest.raises(ValueError, match="unknown role 'tensor': choose from matrix, embedding, head, vector"):
        ParamLayout("tensor")
    with pytest.raises(ValueError, match="named exactly once, got stacked=\\(0,\\), inputs=\\(0,\\)"):
        ParamLayout("matrix", (0,), (0,), (1,))
    with pytest.raises(ValueError, match="named exactly once"):
        ParamLayout("matrix", (), (1,), (2,))


def test_a_layout_that_does_not_fit_names_the_leaf():
    params = {"dense": {"kernel": jnp.zeros((3, 2))}}
    with pytest.raises(ValueError, match=r"layout of dense/kernel is .* but the parameter has shape \(3, 2\)"):
        layout.resolve({"dense": {"kernel": ParamLayout("vector", (), (), (0,))}}, params)
    with pytest.raises(
        ValueError, match="layout's tree differs from the parameters': (pytree structure error|Dict key mismatch)"
    ):
        layout.resolve({"dense": {"bias": ParamLayout("vector")}}, params)


def test_masked_leaves_are_taken_out():
    entry = ParamLayout("vector", (), (), (0,))
    params = {"a": jnp.zeros(2), "b": optax.MaskedNode(), "c": None}
    for given in (None, {"a": entry, "b": entry, "c": entry}):
        resolved = layout.resolve(given, params)
        assert resolved["a"] == entry
        assert isinstance(resolved["b"], optax.MaskedNode)
        assert resolved["c"] is None


def test_per_copy_sees_one_copy_at_a_time():
    leaf = jnp.arange(24.0).reshape(2, 3, 4)
    normalized = layout.per_copy(lambda x: x / jnp.sum(x), ParamLayout("vector", (0, 2), (), (1,)))(leaf)
    np.testing.assert_allclose(normalized, leaf / jnp.sum(leaf, 1, keepdims=True), rtol=1e-6)


def test_roles_and_fans():
    tree = {"a": ParamLayout("head", (), (0,), (1, 2))}
    assert layout.roles(tree) == {"a": "head"}
    assert tree["a"].fans((8, 2, 3)) == (8, 6)
    assert tree["a"].ndim == 3
