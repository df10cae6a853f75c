"""Parameters as stacks of blocks: each block is updated as a matrix of its own."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_mini import ParamLayout, adamw, clip_by_norm, kron, masked, muon, partition, soap
from jaxopt_mini.wrappers import in_blocks
from tests.harness import normal, run

LAYOUT = {"w": ParamLayout("matrix", (0,), (1,), (2, 3)), "b": ParamLayout("vector", (), (), (0,))}
SHAPES, SMALL = {"w": (2, 4, 2, 6), "b": (4,)}, {"w": (2, 2, 1, 6), "b": (2,)}
AT = {
    "w": [(slice(None), slice(i, i + 2), slice(j, j + 1)) for i in (0, 2) for j in (0, 1)],
    "b": [slice(2), slice(2, 4)],
}


def abstract(shapes):
    return {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}


def apart(tree):
    """The tree of a model that has each block as a parameter."""
    return {name: {str(i): leaf[at] for i, at in enumerate(AT[name])} for name, leaf in tree.items()}


@pytest.mark.parametrize(
    "make",
    [partial(soap, 0.1, weight_decay=0.1), partial(muon, 0.1, rest=adamw(0.1)), partial(adamw, 0.1, weight_decay=0.1)],
    ids=["soap", "muon", "adamw"],
)
def test_each_block_is_updated_like_a_parameter(make):
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 3)
    takes = make if make.func is not adamw else lambda layout: make()
    found, _ = run(in_blocks(takes, abstract(SMALL), layout=LAYOUT), params, grads)
    layout = {name: dict.fromkeys(parts, LAYOUT[name]) for name, parts in apart(params).items()}
    expected, _ = run(takes(layout=layout), apart(params), jax.vmap(apart)(grads))
    chex.assert_trees_all_close(apart(found), expected, rtol=1e-4, atol=1e-6)


def test_blocks_as_large_as_the_parameters_change_nothing():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 2)
    for blocks in (params, lambda tree: tree):
        found = run(in_blocks(partial(soap, 0.1), blocks, layout=LAYOUT), params, grads)
        chex.assert_trees_all_equal(found, run(soap(0.1, layout=LAYOUT), params, grads))


def test_it_works_in_masks_groups_and_chains_under_jit():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 2)
    tx = in_blocks(partial(kron, 0.1), abstract(SMALL), layout=LAYOUT)
    plain, _ = run(tx, params, grads)
    labels = {"w": "x", "b": "y"}
    around = (
        optax.chain(clip_by_norm(1e6), tx),
        partition({"x": tx, "y": tx}, labels),
        masked(tx, {"w": True, "b": True}),
    )
    for other in around:
        found, _ = jax.jit(lambda p, g, tx=other: run(tx, p, g))(params, grads)
        chex.assert_trees_all_equal_shapes_and_dtypes(found, plain)
        assert all(map(jnp.all, map(jnp.isfinite, jax.tree.leaves(found))))
    only, _ = run(masked(tx, {"w": False, "b": True}), params, grads)
    chex.assert_trees_all_close(only["b"], plain["b"], rtol=1e-5)


def test_a_state_takes_abstract_parameters_and_maps_over_them():
    tx = in_blocks(partial(soap, 0.1), abstract(SMALL), layout=LAYOUT)
    state = tx.init(abstract(SHAPES))
    assert state[0].bases[0]["w"].shape == (2, 2, 2, 2, 2)
    doubled = optax.tree_map_params(tx, lambda leaf: 2 * leaf, tx.init(normal(SHAPES, 0)))
    chex.assert_trees_all_equal_shapes(doubled, state)


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ({"w": (2, 3, 1, 6), "b": (2,)}, r"w of shape \(2, 4, 2, 6\) can't be divided into blocks of \(2, 3, 1, 6\)"),
        ({"w": (2, 8, 2, 6), "b": (2,)}, "must be a multiple of the block's"),
        ({"w": (2, 0, 2, 6), "b": (2,)}, "must be a multiple of the block's"),
        ({"w": (4, 2, 6), "b": (2,)}, "w of shape .* has no block with as many axes"),
        ({"b": (2,)}, "w of shape .* has no block"),
    ],
    ids=str,
)
def test_mistakes_name_the_leaf(blocks, says):
    with pytest.raises(ValueError, match=says):
        in_blocks(partial(soap, 0.1), abstract(blocks), layout=LAYOUT).init(normal(SHAPES, 0))
