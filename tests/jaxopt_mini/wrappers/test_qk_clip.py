"""QK-clip against its formula, for stacked layers, shared keys and heads on an axis of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, qk_clip, sgd
from tests.harness import normal

LOGITS = jnp.array([50.0, 200.0, -3.0, 400.0])
ROOTS = np.sqrt([1, 0.5, 1, 0.25])


def both(*entry):
    return dict.fromkeys(("query", "key"), ParamLayout(*entry))


def clipped(params, logits, **how):
    """The parameters after a step of zero."""
    tx, zeros = qk_clip(sgd(0.1), **how), jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params, max_logits=logits)
    return jax.tree.map(jnp.add, params, updates)


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


def same(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_each_head_has_its_own_factor_after_the_inner_update():
    shapes = {"a": {"query": {"kernel": (6, 8), "bias": (8,)}, "key": (6, 8)}, "b": (8,)}
    params, grads = normal(shapes, 0), normal(shapes, 1)
    tx = qk_clip(sgd(0.1))
    updates, _ = tx.update(grads, tx.init(params), params, max_logits={"a": LOGITS})
    scaled = lambda p, g: (p - 0.1 * g) * np.repeat(ROOTS, 2)
    same(jax.tree.map(jnp.add, params, updates)["a"], jax.tree.map(scaled, numpy(params)["a"], numpy(grads)["a"]))
    np.testing.assert_array_equal(updates["b"], -0.1 * numpy(grads["b"]))


def test_stacked_layers():
    """Parameters of two layers, one of which stays."""
    params = normal({"a": {"query": (2, 6, 8), "key": (2, 6, 8)}}, 0)
    new = clipped(params, {"a": jnp.stack([LOGITS, jnp.zeros(4)])}, layout={"a": both("matrix", (0,), (1,), (2,))})
    factor = np.stack([np.repeat(ROOTS, 2), np.ones(8)])[:, None]
    same(new, jax.tree.map(lambda leaf: leaf * factor, numpy(params)))


def test_heads_on_their_own_axis():
    params = normal({"query": (6, 4, 2), "key": (6, 4, 2)}, 0)
    new = clipped(params, {"": LOGITS}, layout=both("matrix", (), (0,), (1, 2)))
    same(new, jax.tree.map(lambda leaf: leaf * ROOTS[:, None], numpy(params)))


def test_queries_that_share_a_key_have_one_factor():
    """That of the largest logit among them, so that every logit is at most the threshold."""
    params = normal({"query": (6, 8), "key": (6, 4)}, 0)
    new = clipped(params, {"": LOGITS})
    same(new["query"], numpy(params["query"]) * np.repeat(ROOTS[[1, 1, 3, 3]], 2))
    same(new["key"], numpy(params["key"]) * np.repeat(ROOTS[[1, 3]], 2))


def test_the_logits_of_a_clipped_head_are_at_the_threshold():
    params, x = normal({"query": (6, 8), "key": (6, 8)}, 0), normal({"x": (5, 6)}, 1)["x"]

    def largest(params):
        q, k = ((x @ params[name]).reshape(5, 4, 2) for name in ("query", "key"))
        return jnp.max(jnp.einsum("tnh,snh->nts", q, k), axis=(1, 2))

    before = largest(params)
    threshold = float(jnp.median(before))
    np.testing.assert_allclose(
        largest(clipped(params, {"": before}, threshold=threshold)), jnp.minimum(before, threshold), rtol=1e-5
    )


@pytest.mark.parametrize("logits", [None, {"other": LOGITS}])
def test_missing_logits_are_named(logits):
    with pytest.raises(ValueError, match="largest logits of the module 'a': call update"):
        clipped(normal({"a": {"query": (6, 8), "key": (6, 8)}}, 0), logits)


def test_a_negative_threshold_is_rejected():
    with pytest.raises(ValueError, match="threshold=-1"):
        qk_clip(sgd(0.1), threshold=-1.0)
