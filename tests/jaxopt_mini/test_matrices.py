"""Leaves as matrices and back, and Optax's forms of a layout."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxopt_mini import ParamLayout
from jaxopt_mini.matrices import (
    MATRIX,
    Sides,
    _division,
    as_leaves,
    as_matrices,
    by_dimension_numbers,
    by_rank,
    layout_or_dimension_numbers,
    load_sides,
    map_matrices,
    resolve_layout,
    square_sides,
    store_sides,
    unzip,
)
from tests.harness import normal

NUMBERS = optax.contrib.MuonDimensionNumbers


@pytest.mark.parametrize(
    "entry, expected",
    [
        (ParamLayout("matrix", (0,), (1,), (2, 3)), (2, 3, 20)),
        (ParamLayout("matrix", (3, 1), (2,), (0,)), (5, 3, 4, 2)),
        (ParamLayout("vector", (0,), (), (1, 2, 3)), (2, 1, 60)),
    ],
)
def test_a_leaf_becomes_matrices_and_comes_back(entry, expected):
    leaf = jnp.arange(120.0).reshape(2, 3, 4, 5)
    matrices = as_matrices(leaf, entry)
    assert matrices.shape == expected
    np.testing.assert_array_equal(as_leaves(matrices, entry, leaf), leaf)


def test_a_function_sees_one_matrix_and_its_extra_values():
    layout = {"a": MATRIX, "b": ParamLayout("matrix", (0,), (1,), (2,)), "c": MATRIX}
    tree = normal({"a": (2, 3), "b": (4, 2, 3), "c": (5, 3)}, 0)
    sides = {"a": Sides(None, jnp.ones(3)), "b": Sides(None, jnp.ones((4, 3))), "c": Sides(jnp.ones(5), None)}

    def rule(matrix, side):
        assert matrix.ndim == 2 and all(leaf.ndim == 1 for leaf in jax.tree.leaves(side))
        return matrix * 2, Sides(*(None if leaf is None else leaf + 1 for leaf in side))

    doubled, sides = unzip(map_matrices(rule, layout, tree, sides), layout)
    for name in tree:
        np.testing.assert_array_equal(doubled[name], 2 * tree[name])
    assert sides["b"].inputs is None and sides["b"].outputs.shape == (4, 3) and sides["c"].inputs.shape == (5,)


@pytest.mark.parametrize(
    ("axes", "copies", "each"),
    [
        ({"data": 2}, 8, 4),
        ({"data": 2, "fsdp": 2}, 8, 2),
        ({"data": 3}, 8, 3),
        ({"data": 8}, 6, 1),
        ({"data": 8}, 12, 2),
        ({"data": 4, "fsdp": 2}, 6, 1),
        ({"data": 4, "fsdp": 2}, 2, 1),
        ({"data": 8}, 2, 1),
    ],
)
def test_the_devices_of_a_mesh_divide_the_stack(axes, copies, each):
    """No device multiplies more than its share, rounded up, and the result equals that of one device."""
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    layout = {"a": ParamLayout("matrix", (0,), (1,), (2,)), "b": ParamLayout("matrix", (0,), (1,), (2,))}
    tree = normal({"a": (copies // 2, 16, 16), "b": (copies // 2, 16, 16)}, 0)

    def squares(tree):
        return map_matrices(lambda m: m @ m, layout, tree)

    def on_mesh(tree):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return squares(tree)

    whole = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(on_mesh, in_shardings=whole, out_shardings=whole).lower(tree).compile()
    (product,) = (line for line in compiled.as_text().splitlines() if " dot(" in line)
    shape = re.search(r"= f32\[([0-9,]*)\]", product).group(1)
    assert np.prod([int(size) for size in shape.split(",")]) == each * 16 * 16
    chex.assert_trees_all_close(compiled(jax.device_put(tree, whole)), squares(tree), rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ((8,), 1, ((), 0)),
        ((4, 2), 2, (("b",), 0)),
        ((4, 2), 3, (("a",), 1)),
        ((4, 2), 12, (("a", "b"), 4)),
        ((1, 2), 4, (("b",), 0)),
    ],
)
def test_a_stack_is_padded_as_little_as_the_smallest_share_allows(sizes, count, expected):
    mesh = jax.make_mesh(sizes, ("a", "b")[: len(sizes)], axis_types=(AxisType.Auto,) * len(sizes))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert _division(count) == expected


def test_an_empty_tree_has_no_matrices():
    assert unzip(map_matrices(lambda m: (m, m), {}, {}), {}) == ({}, {})


def test_sides_are_square_up_to_the_longest_allowed_and_vectors_have_none():
    layout = {"w": ParamLayout("matrix", (0,), (1,), (2,)), "b": ParamLayout("vector", (), (), (0,))}
    matrices = as_matrices({"w": jnp.zeros((2, 3, 8), jnp.bfloat16), "b": jnp.zeros(3)}, layout)
    inputs, outputs = stored = square_sides(layout, matrices, 4)
    assert inputs["w"].shape == (2, 3, 3) and inputs["w"].dtype == jnp.float32
    assert outputs["w"].shape == inputs["b"].shape == outputs["b"].shape == ()
    loaded = load_sides(stored, layout)
    assert loaded["w"].outputs is None and loaded["b"] == Sides(None, None)
    chex.assert_trees_all_equal(store_sides(loaded, layout), stored)


def test_what_has_two_axes_is_a_matrix_by_rank():
    got = by_rank({"embed": jnp.zeros((5, 4)), "stack": jnp.zeros((2, 3, 4)), "bias": jnp.zeros(3)})
    assert {name: entry.role for name, entry in got.items()} == {"embed": "matrix", "stack": "vector", "bias": "vector"}


def test_dimension_numbers_are_read_as_trees_prefixes_and_functions():
    params = {"a": {"w": jnp.zeros((2, 3, 4)), "v": jnp.zeros((5, 3, 4))}, "b": jnp.zeros(3)}
    given = {"a": NUMBERS(-2, (0,)), "b": None}
    for numbers in (given, lambda params: given):
        got = by_dimension_numbers(numbers, params)
        assert got["a"]["w"] == got["a"]["v"] == ParamLayout("matrix", (2,), (1,), (0,))
        assert got["b"].role == "vector"
    masked = {"a": {"w": params["a"]["w"], "v": optax.MaskedNode()}, "b": optax.MaskedNode()}
    assert by_dimension_numbers(given, masked)["b"] == optax.MaskedNode()


def test_a_layout_is_chosen_once_and_checked():
    assert layout_or_dimension_numbers(None, None) is by_rank
    with pytest.raises(ValueError, match="give one of them"):
        layout_or_dimension_numbers({"w": MATRIX}, NUMBERS())
    with pytest.raises(ValueError, match=r"w is .*shape \(3,\)"):
        resolve_layout(lambda params: {"w": MATRIX}, {"w": jnp.zeros(3)})
