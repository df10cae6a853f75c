"""Chain, masked and partition: Optax's numbers and state trees, and our extensions."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    PerLayer,
    adafactor,
    adam,
    adamw,
    add_decayed_weights,
    chain,
    clip_by_norm,
    ema,
    lamb,
    masked,
    muon,
    partition,
    sam,
    sgd,
)
from jaxopt_mini.layout import infer
from jaxopt_mini.transforms import scale, trace
from tests.harness import normal, permissive, run

SHAPES = {"dense": {"kernel": (3, 2), "bias": (2,)}, "scale": ()}
MASK = {"dense": {"kernel": True, "bias": False}, "scale": True}
PREFIX = {"dense": True, "scale": False}
LABELS = {"dense": {"kernel": "slow", "bias": "fast"}, "scale": "slow"}


def matrices(tree):
    return jax.tree.map(lambda leaf: leaf.ndim == 2, tree)


def by_rank(tree):
    return jax.tree.map(lambda leaf: "slow" if leaf.ndim else "fast", tree)


PAIRS = {
    "chain": (optax.chain(optax.trace(0.9), optax.ema(0.9)), chain(trace(0.9), ema(0.9))),
    **{
        f"masked, {name}": (optax.masked(optax.trace(0.9), mask), masked(trace(0.9), mask))
        for name, mask in {"tree": MASK, "prefix": PREFIX, "function": matrices}.items()
    },
    **{
        f"partition, {name}": (
            optax.partition({"slow": optax.ema(0.9), "fast": optax.trace(0.5)}, labels),
            partition({"slow": ema(0.9), "fast": trace(0.5)}, labels),
        )
        for name, labels in {
            "tree": LABELS,
            "prefix": {"dense": "slow", "scale": "fast"},
            "one": "slow",
            "function": by_rank,
        }.items()
    },
    "masked in a partition": (
        optax.partition({"slow": optax.masked(optax.trace(0.9), matrices), "fast": optax.scale(0.1)}, LABELS),
        partition({"slow": masked(trace(0.9), matrices), "fast": scale(0.1)}, LABELS),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax(name):
    theirs, ours = PAIRS[name]
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 4)
    with permissive():
        expected = jax.jit(lambda p, g: run(theirs, p, g))(params, grads)
    got = jax.jit(lambda p, g: run(ours, p, g))(params, grads)
    chex.assert_trees_all_equal_structs(got, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("name", PAIRS)
def test_a_state_of_one_continues_under_the_other(name):
    theirs, ours = PAIRS[name]
    params, grads = normal(SHAPES, 2), normal(SHAPES, 3, 2)
    with permissive():
        _, state = jax.jit(lambda p, g: run(theirs, p, g))(params, grads)
        expected = jax.jit(lambda p, g, s: run(theirs, p, g, s))(params, grads, state)
    got = jax.jit(lambda p, g, s: run(ours, p, g, s))(params, grads, state)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_an_empty_chain_is_the_identity_where_optax_has_none():
    grads = normal(SHAPES, 4)
    updates, state = chain().update(grads, chain().init(grads))
    chex.assert_trees_all_equal(updates, grads)
    assert state == ()
    with pytest.raises(ValueError):
        optax.chain()


def test_a_state_of_another_chain_is_rejected():
    grads = normal(SHAPES, 5)
    with pytest.raises(ValueError, match="chain of 2 transformations got a state of length 1"):
        chain(scale(1.0), scale(1.0)).update(grads, chain(scale(1.0)).init(grads))


def test_a_masked_leaf_takes_no_memory_and_its_nan_touches_no_other():
    grads = normal(SHAPES, 6)
    grads["dense"]["bias"] = jnp.full(2, jnp.nan)
    tx = masked(chain(clip_by_norm(1.0), trace(0.9)), MASK)
    updates, state = tx.update(grads, tx.init(grads))
    chex.assert_tree_all_finite((updates["dense"]["kernel"], updates["scale"], state))
    np.testing.assert_array_equal(updates["dense"]["bias"], jnp.nan)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 + 6 + 1


def test_a_chosen_nan_stays_where_another_is_masked():
    """The masked branch must not be computed and then selected away, which would leak NaN into a gradient."""
    loss = lambda p: jnp.sum(masked(scale(jnp.nan), {"a": False, "b": True}).update(p, optax.MaskedState(()))[0]["a"])
    grads = jax.grad(loss)({"a": jnp.ones(2), "b": jnp.ones(2)})
    chex.assert_trees_all_equal(grads, {"a": jnp.ones(2), "b": jnp.zeros(2)})


def test_labels_without_a_transformation_are_listed():
    tx = partition({"slow": scale(0.1)}, LABELS)
    with pytest.raises(ValueError, match=r"transformations for \['slow'\], not for dense/bias -> 'fast'"):
        tx.init(normal(SHAPES, 7))


def test_extra_arguments_reach_every_link():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: g * value, updates), state

    recorder = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = chain(scale(1.0), masked(recorder, MASK), partition({"a": recorder}, lambda tree: "a"))
    grads = {"dense": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}, "scale": jnp.ones(1)}
    updates, _ = tx.update(grads, tx.init(grads), value=3.0)
    assert jax.tree.map(lambda leaf: leaf.item(), updates) == {
        "dense": {"kernel": 9.0, "bias": 3.0},
        "scale": 9.0,
    }


def test_parameters_reach_masked_links():
    params, grads = normal(SHAPES, 8), normal(SHAPES, 9)
    tx = masked(chain(add_decayed_weights(0.5), adam(0.1)), MASK)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["dense"]["bias"], grads["dense"]["bias"])


@pytest.mark.parametrize("mask", [MASK, PREFIX])
def test_a_masked_link_gets_the_loss_of_its_leaves(mask):
    """Each leaf's gradient at the other leaves' true values, as without a mask."""

    def loss(params):
        return params["scale"] * jnp.sum(params["dense"]["kernel"] @ params["dense"]["bias"])

    def update(updates, state, params=None, *, loss_fn, **extra):
        return jax.grad(loss_fn)(params), state

    params = normal(SHAPES, 0)
    tx = masked(optax.GradientTransformationExtraArgs(lambda params: (), update), mask)
    got, _ = tx.update(normal(SHAPES, 1), tx.init(params), params, loss_fn=loss)
    chosen = jax.tree.map(lambda take, part: jax.tree.map(lambda _: take, part), mask, params)
    expected = jax.tree.map(jnp.where, chosen, jax.grad(loss)(params), normal(SHAPES, 1))
    chex.assert_trees_all_close(got, expected)


def stack_and_layers():
    """A stacked model, and the same layers apart."""
    blocks, out = normal({"kernel": (3, 4, 5), "bias": (3, 5)}, 0), normal({"kernel": (5, 2)}, 2)
    apart = {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(3)}
    return {"blocks": blocks, "out": out}, {**apart, "out": out}


@pytest.mark.parametrize(
    "labels", [("a", "b", "a"), pytest.param(("a", "b", "b"), marks=pytest.mark.slow)], ids="".join
)
@pytest.mark.parametrize(
    "make", [adamw, functools.partial(muon, layout=infer), adafactor, lamb], ids=["adamw", "muon", "adafactor", "lamb"]
)
def test_layers_of_a_stack_train_as_layers_apart(make, labels):
    parts = {"a": make(0.1), "b": make(0.01)}
    stacked, apart = stack_and_layers()
    by_layer = {"blocks": jax.tree.map(lambda _: PerLayer(labels), stacked["blocks"]), "out": "b"}
    one_by_one = {f"block_{i}": jax.tree.map(lambda _, i=i: labels[i], apart[f"block_{i}"]) for i in range(3)}
    ways = (partition(parts, by_layer), stacked), (partition(parts, {**one_by_one, "out": "b"}), apart)
    states = [tx.init(params) for tx, params in ways]
    for seed in range(3):
        grads = jax.tree.map(lambda leaf, seed=seed: leaf * (1 + seed) - 0.3, stacked)
        grads_apart = {f"block_{i}": jax.tree.map(lambda g, i=i: g[i], grads["blocks"]) for i in range(3)}
        grads_apart["out"] = grads["out"]
        (ours, states[0]), (theirs, states[1]) = (
            tx.update(g, state, params)
            for (tx, params), g, state in zip(ways, (grads, grads_apart), states, strict=True)
        )
    joined = jax.tree.map(lambda *rows: jnp.stack(rows), *(theirs[f"block_{i}"] for i in range(3)))
    chex.assert_trees_all_close(ours, {"blocks": joined, "out": theirs["out"]}, rtol=1e-5, atol=1e-7)


def test_layers_keep_the_layout_of_the_whole_model():
    """A kernel whose layers are divided, beside a bias that isn't: still matrices of a stack, for Muon."""
    stacked, _ = stack_and_layers()
    labels = {"blocks": {"kernel": PerLayer(("a", "b", "b")), "bias": "b"}, "out": "b"}
    tx, whole = partition({"a": muon(0.1, layout=infer), "b": muon(0.1, layout=infer)}, labels), muon(0.1, layout=infer)
    ours, _ = jax.jit(tx.update)(stacked, tx.init(stacked), stacked)
    expected, _ = whole.update(stacked, whole.init(stacked), stacked)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_a_loss_of_all_parameters_reaches_the_layers():
    stacked, _ = stack_and_layers()
    loss = lambda params: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    labels = {"blocks": {"kernel": PerLayer(("a", "b", "b")), "bias": "b"}, "out": "b"}
    tx = partition({"a": sam(sgd(0.1), rho=0.1), "b": sgd(0.1)}, labels)
    updates, _ = tx.update(jax.grad(loss)(stacked), tx.init(stacked), stacked, loss_fn=loss)
    kernel = stacked["blocks"]["kernel"]
    first = kernel[0] * (1 + 0.1 / jnp.linalg.norm(kernel[0]))
    chex.assert_trees_all_close(updates["blocks"]["kernel"][0], -0.2 * first, rtol=1e-5)
    chex.assert_trees_all_close(updates["blocks"]["kernel"][1:], -0.2 * kernel[1:], rtol=1e-5)


def test_another_number_of_layers_is_refused():
    tx = partition({"a": sgd(0.1)}, {"w": PerLayer(("a", "a"))})
    with pytest.raises(ValueError, match=r"w of shape \(3, 2\) got labels for 2 layers"):
        tx.init({"w": jnp.zeros((3, 2))})
    with pytest.raises(ValueError, match="not for w -> 'b'"):
        partition({"a": sgd(0.1)}, {"w": PerLayer(("a", "b"))}).init({"w": jnp.zeros((2, 2))})
