"""Every optimizer and wrapper beside other libraries: Equinox, Flax NNX, Optax's tools, Orbax; and unusual leaves.

Most laws only trace, since what fails there fails while tracing.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from jaxopt_mini import (
    adamw,
    apply_updates,
    cautious_decay,
    chain,
    clip_by_norm,
    ema_params,
    inject_hyperparams,
    low_precision,
    masked,
    partition,
    sgd,
    soap,
    states,
)
from jaxopt_mini.layout import infer
from jaxopt_mini.quantize import Blocks
from jaxopt_mini.tree import as_arrays
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.harness import half_square, normal, nothing, permissive

STEPS = 3
SHAPES = {"kernel": (3, 2), "bias": (2,)}


def wrapped(case, inner, layout=None, **keywords):
    offered = {"layout": layout} if "layout" in inspect.signature(case.wrapper).parameters else {}
    return case.wrapper(CASES[inner].make(layout), **{**offered, **case.keywords, **keywords})


def around(inner):
    return {
        f"{name}-{inner}": (functools.partial(wrapped, case, inner), case.extra)
        for name, case in WRAPPED.items()
        if not case.needs_layers
    }


TABLE = {
    **{name: (case.make, case.extra) for name, case in CASES.items()},
    **around("adamw"),
    "low_precision-master": (lambda layout: low_precision(adamw(0.1), rounding="master", min_size=1), nothing),
    "inject_hyperparams": (lambda layout: inject_hyperparams(soap)(0.1, layout=layout), nothing),
    "chain": (lambda layout: chain(clip_by_norm(1.0), adamw(0.1)), nothing),
}
PAIRS = {name: row for inner in ("muon", "soap", "sm3", "came") for name, row in around(inner).items()}
MATRICES = ("muon", "normuon", "soap", "shampoo", "kron", "dion", "galore", "scion")


def over(rows):
    return pytest.mark.parametrize("make, extra", rows.values(), ids=rows)


def slow(rows):
    return {name: pytest.param(*row, marks=pytest.mark.slow) for name, row in rows.items()}


every = over(TABLE)
every_and_pairs = over({**TABLE, **slow(PAIRS)})


def steps(tx, extra, params, grads=None, count=1):
    """The last updates and state; the parameters are their own gradients by default."""
    grads, state = params if grads is None else grads, tx.init(params)
    updates = grads
    for t in range(count):
        updates, state = tx.update(grads, state, params, **extra(half_square, as_arrays(params), jnp.int32(t)))
        params = apply_updates(params, updates)
    return updates, state


def check_traces(tx, extra, params):
    """Traces a step: updates like the parameters, a state that keeps its structure."""

    def run(params):
        return tx.init(params), *steps(tx, extra, params)

    before, updates, after = jax.eval_shape(run, params)
    chex.assert_trees_all_equal_shapes(updates, jax.eval_shape(lambda tree: tree, params))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    """A callable pytree, as modules of Equinox are."""

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, x):
        return x @ self.kernel + self.bias


def callable_params():
    return Linear(**normal(SHAPES, 0))


@every_and_pairs
def test_a_callable_pytree_may_be_the_parameters_and_the_layout(make, extra):
    check_traces(make(infer(callable_params())), extra, callable_params())


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if "layout" in inspect.signature(c.optimizer).parameters])
def test_a_layout_may_be_a_function(name):
    params = normal(SHAPES, 0)
    ways = [jax.eval_shape(CASES[name].make(layout).init, params) for layout in (infer, infer(params))]
    chex.assert_trees_all_equal_shapes_and_dtypes(*ways)


MASKS = [
    (name, key)
    for name, case in CASES.items()
    for key in inspect.signature(case.optimizer).parameters
    if key.endswith("mask")
]


@pytest.mark.parametrize("name, key", MASKS)
def test_a_callable_pytree_may_be_the_mask(name, key):
    params, case = callable_params(), CASES[name]
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    check_traces(case.make(infer(params), **{key: mask}), case.extra, params)


def test_a_callable_pytree_may_be_the_labels_and_the_mask_of_a_wrapper():
    params = callable_params()
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    labels = jax.tree.map(str, mask)
    for spec in (lambda tree: tree, lambda tree: lambda params: tree):
        updates, _ = steps(masked(sgd(1.0), spec(mask)), nothing, params)
        chex.assert_trees_all_equal(updates, Linear(-params.kernel, params.bias))
        updates, _ = steps(partition({"True": sgd(1.0), "False": sgd(0.5)}, spec(labels)), nothing, params)
        chex.assert_trees_all_equal(updates, Linear(-params.kernel, -0.5 * params.bias))
        decayed = cautious_decay(sgd(1.0), weight_decay=1.0, learning_rate=1.0, mask=spec(mask))
        updates, _ = steps(decayed, nothing, params)
        chex.assert_trees_all_equal(updates, Linear(-2 * params.kernel, -params.bias))


@every_and_pairs
def test_the_state_keeps_its_shapes_under_nnx(make, extra):
    tx = make(None)

    def train():
        model = nnx.Linear(*SHAPES["kernel"], rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        first = nnx.as_pure(optimizer.opt_state)
        for t in range(2):  # from the second on, the state is one that NNX has put together
            params = nnx.as_pure(nnx.state(model, nnx.Param))
            optimizer.update(model, nnx.state(model, nnx.Param), **extra(half_square, params, jnp.int32(t)))
        return first, nnx.as_pure(optimizer.opt_state)

    first, last = jax.eval_shape(train)
    chex.assert_trees_all_equal_shapes_and_dtypes(*map(jax.tree.leaves, (first, last)))


@pytest.mark.slow
@every
def test_steps_under_nnx_equal_those_alone(make, extra):
    tx = make(None)

    @jax.jit
    def train():
        model = nnx.Linear(*SHAPES["kernel"], rngs=nnx.Rngs(0))
        start = nnx.as_pure(nnx.state(model, nnx.Param))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        state, params = tx.init(start), start
        for t in range(STEPS):
            optimizer.update(model, nnx.state(model, nnx.Param), **extra(half_square, params, jnp.int32(t)))
            updates, state = tx.update(params, state, params, **extra(half_square, params, jnp.int32(t)))
            params = apply_updates(params, updates)
        return nnx.as_pure(nnx.state(model, nnx.Param)), params

    chex.assert_trees_all_close(*train(), rtol=1e-4, atol=1e-5)


def test_evaluation_parameters_are_read_from_an_nnx_optimizer():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    start = nnx.as_pure(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, ema_params(sgd(1.0), decay=0.5), wrt=nnx.Param)
    optimizer.update(model, nnx.state(model, nnx.Param))
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    average = states.evaluation_params(nnx.as_pure(optimizer.opt_state), params)
    chex.assert_trees_all_equal(average, jax.tree.map(jnp.zeros_like, start))


def is_one(node):
    return isinstance(node, optax.MaskedNode | Blocks)


def mapped_onto_specs(tx, params):
    """The sharding recipe of Optax: the spec of its parameter in place of each array of a state."""
    specs = jax.tree.map(lambda leaf: f"spec of {leaf.shape}", params)
    state = jax.eval_shape(tx.init, params)
    return optax.tree_map_params(
        tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: "none", is_leaf=is_one
    )


STATELESS = ("sgd", "sign_sgd", "polyak_sgd")
AS_OPTAX = "sm3"  # its state has a list of arrays for each parameter, as in Optax
mapped = over({name: row for name, row in TABLE.items() if name != AS_OPTAX})


@mapped
def test_optax_maps_specs_onto_the_state(make, extra, request):
    """Also where the layout is a tree, which does not fit the placeholder that Optax passes to ``init``."""
    params = normal(SHAPES, 0)
    found = set(jax.tree.leaves(mapped_onto_specs(make(infer(params)), params), is_leaf=is_one))
    assert found <= {"none", "spec of (3, 2)", "spec of (2,)"}
    assert found - {"none"} or request.node.callspec.id in STATELESS


def test_optax_maps_a_function_onto_lists():
    tx = CASES[AS_OPTAX].make()
    state = jax.eval_shape(tx.init, normal(SHAPES, 0))
    chex.assert_trees_all_equal_structs(optax.tree_map_params(tx, lambda leaf: leaf, state), state)


@mapped
def test_optax_maps_specs_under_labels_that_are_a_tree(make, extra):
    tx = partition({"a": make(None), "b": sgd(0.1)}, {"kernel": "a", "bias": "b"})
    mapped_onto_specs(tx, normal(SHAPES, 0))


@pytest.mark.parametrize("name, key", MASKS)
def test_optax_maps_specs_where_the_mask_of_an_optimizer_is_a_tree(name, key):
    mapped_onto_specs(CASES[name].make(None, **{key: {"kernel": True, "bias": False}}), normal(SHAPES, 0))


EMPTY = [(0, 4), (4, 0), (0,), (0, 0)]
EMPTY_STACKS = [(0, 4, 4), (2, 0, 4), (2, 4, 0), (2, 0), (0, 2)]


def with_empty_leaves(shapes, stacks):
    empty = {str(shape): jnp.zeros(shape) for shape in shapes}
    return {"matrix": normal((4, 4), 0), "scalar": jnp.ones(()), **empty, "blocks": list(map(jnp.zeros, stacks))}


@every
def test_leaves_without_entries_and_scalars_are_updated(make, extra):
    check_traces(make(None), extra, with_empty_leaves(EMPTY[:1], EMPTY_STACKS[1:2]))


@pytest.mark.slow
@over(TABLE | PAIRS)
def test_leaves_without_entries_leave_everything_finite(make, extra):
    params = with_empty_leaves(EMPTY, EMPTY_STACKS)
    updates, state = jax.jit(lambda params: steps(make(None), extra, params, count=STEPS))(params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    chex.assert_tree_all_finite((updates, [leaf for leaf in jax.tree.leaves(state) if leaf.dtype != jnp.uint8]))


@every
def test_the_state_of_abstract_parameters_has_the_same_shapes(make, extra):
    abstract = jax.eval_shape(lambda: normal(SHAPES, 0))
    state, expected = make(None).init(abstract), jax.eval_shape(make(None).init, abstract)
    chex.assert_trees_all_equal_structs(state, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected)


COPIES = {"prodigy", "dog", "dowg", "muown", "gpa_adamw"}
COPIES |= {"schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam", "schedule_free_plus", "amuse"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in COPIES])
def test_a_state_without_copies_of_the_parameters_is_real_for_abstract_parameters(name):
    state = CASES[name].make().init(jax.eval_shape(lambda: normal(SHAPES, 0)))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


@every
def test_python_numbers_are_leaves(make, extra):
    """As parameters, and as gradients too."""
    updates, _ = jax.eval_shape(lambda: steps(make(None), extra, {"a": 1.5, "b": 2.0}))
    assert {(leaf.shape, leaf.dtype.name) for leaf in updates.values()} == {((), "float32")}


@pytest.mark.slow
@every
def test_python_numbers_move_like_arrays(make, extra):
    tx, params = make(None), {"a": 1.5}
    for got, wanted in zip(*(steps(tx, extra, tree)[0].values() for tree in (params, as_arrays(params))), strict=True):
        assert got == wanted


def loss_after(tx, extra, params):
    def loss(grads):
        updates, _ = steps(tx, extra, params, grads, count=2)
        return half_square(updates)

    return jax.grad(loss)


@over({name: row if name in MATRICES else pytest.param(*row, marks=pytest.mark.slow) for name, row in TABLE.items()})
def test_updates_can_be_differentiated(make, extra):
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(loss_after(make(None), extra, params), grads), grads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon", "galore", "soap", "shampoo", "kron", "dion"])
def test_the_derivative_of_an_update_is_that_of_finite_differences(name):
    """In float64, in which differences are exact enough."""
    with jax.enable_x64(True), permissive():
        check_derivative(name)


def check_derivative(name):
    params, *grads, towards = (normal({"kernel": (4, 3)}, seed, dtype=jnp.float64) for seed in range(4))
    tx = CASES[name].make(infer(params))

    def loss(along):
        state = tx.init(params)
        for grad in grads:
            moved = jax.tree.map(lambda g, t: g + along * t, grad, towards)
            updates, state = tx.update(moved, state, params)
        return jnp.sum(updates["kernel"] * towards["kernel"])

    run, step = jax.jit(loss), 1e-6
    slope = (run(step) - run(-step)) / (2 * step)
    assert jax.jit(jax.grad(loss))(0.0) == pytest.approx(float(slope), rel=1e-5)


@pytest.fixture(scope="module")
def checkpointer():
    """One for all tests: closing it closes threads that the next one would use."""
    with ocp.StandardCheckpointer() as checkpointer:
        yield checkpointer


EMPTY_AS_OPTAX = "galore"  # the projector of a vector has shape (0, 0), as in Optax, which Orbax does not save


@pytest.mark.slow
@over({name: row for name, row in (TABLE | PAIRS).items() if name != EMPTY_AS_OPTAX})
def test_orbax_restores_the_state(make, extra, tmp_path, checkpointer):
    state = make(None).init(normal(SHAPES, 0))
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: state))
    chex.assert_trees_all_equal(restored, state)
