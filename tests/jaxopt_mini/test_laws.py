"""Properties of every optimizer, over the table of cases."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import re

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.training.train_state import TrainState

from jaxopt_mini import OPTIMIZERS, ParamLayout, apply_updates, chain
from jaxopt_mini.layout import infer
from jaxopt_mini.matrices import by_rank
from tests.cases import CASES
from tests.harness import LAYOUT, SHAPES, half_square, normal, nothing, permissive, run, shared_buffers

STEPS = 3
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def law(test):
    """Runs a law over every case, except where the row gives a reason why it can't hold."""

    @each
    @functools.wraps(test)
    def checked(case):
        if test.__name__ in case.exempt:
            pytest.skip(case.exempt[test.__name__])
        test(case)

    return checked


def close(got, expected, rtol=1e-5, atol=1e-6):
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)


def start(seed=0):
    return normal(SHAPES, seed), normal(SHAPES, seed + 1, STEPS)


@functools.cache
def trainer(name, **keywords):
    """(params, grads) -> parameters and state after a few steps, in one scan."""
    case = CASES[name]
    return jax.jit(lambda params, grads: run(case.make(LAYOUT, **keywords), params, grads, extra=case.extra))


@functools.cache
def expected(name, seed=0, **keywords):
    """The result from one start, which every other way of running must reproduce."""
    return trainer(name, **keywords)(*start(seed))


def test_the_table_and_the_cases_name_the_same_optimizers():
    assert OPTIMIZERS == {name: case.optimizer for name, case in CASES.items()}


def zip_dtypes(shapes, dtypes):
    """Abstract arrays whose leaves cycle through the dtypes."""
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return treedef.unflatten(jax.ShapeDtypeStruct(s, d) for s, d in zip(leaves, itertools.cycle(dtypes)))


MIXTURES = {
    "float32": (FLOATS[:1], FLOATS[:1]),
    "bfloat16": (FLOATS[1:2], FLOATS[1:2]),
    "float16": (FLOATS[2:], FLOATS[2:]),
    "wide_gradients": (FLOATS[1:], FLOATS[:1]),
    "narrow_gradients": (FLOATS[:1], FLOATS[1:]),
    "mixed": (FLOATS, FLOATS[1:]),
}


@law
def test_state_keeps_structure_shapes_and_dtypes(case):
    def step(params, grads):
        state = tx.init(params)
        updates, new = tx.update(grads, state, params, **case.extra(half_square, params, jnp.int32(0)))
        return state, new, updates, apply_updates(params, updates)

    tx = case.make(LAYOUT)
    for param_dtypes, grad_dtypes in MIXTURES.values():
        params, grads = zip_dtypes(SHAPES, param_dtypes), zip_dtypes(SHAPES, grad_dtypes)
        state, new, updates, new_params = jax.eval_shape(step, params, grads)
        chex.assert_trees_all_equal_structs(state, new)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, new_params)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, updates)


@law
def test_steps_are_traced_once(case):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, grad, t):
        updates, state = tx.update(grad, state, params, **case.extra(half_square, params, t))
        return apply_updates(params, updates), state

    chex.clear_trace_counter()
    tx = case.make(LAYOUT)
    params, grads = start()
    state = tx.init(params)
    for t in range(STEPS):
        params, state = step(params, state, jax.tree.map(lambda g, t=t: g[t], grads), t)
    close((params, state), expected(case.optimizer.__name__))


# Leaves of one entry, square matrices and vectors alone: shapes whose reductions and reshapes return the same array.
SMALL = {"one": (1, 1), "single": (1,), "square": (4, 4), "column": (3, 1), "scalar": (), "heads": (2, 3, 4)}


@law
def test_every_array_of_a_fresh_state_has_its_own_buffer(case):
    """No buffer is shared within a state, between two states, or with a parameter or an argument."""
    given = {name: jnp.float32(value) for name, value in case.floats.items()}
    trees = [(SHAPES, LAYOUT, dtype, given) for dtype in FLOATS]
    trees += [(SHAPES, LAYOUT, jnp.float32, keywords) for keywords in case.variants]
    trees += [(SMALL, None, jnp.float32, {})]
    for shapes, layout, dtype, keywords in trees:
        tx, params = case.make(layout, **keywords), normal(shapes, 0, dtype=dtype)
        assert not shared_buffers(tx.init(params), tx.init(params), params, given)


@law
def test_parameters_and_state_may_be_donated_from_the_first_step(case):
    def step(params, state, grad, t):
        updates, state = tx.update(grad, state, params, **case.extra(half_square, params, t))
        return apply_updates(params, updates), state

    tx, donated = case.make(LAYOUT), jax.jit(step, donate_argnums=(0, 1))
    params, grads = start()
    state = tx.init(params)
    for t in range(STEPS):
        params, state = donated(params, state, jax.tree.map(lambda g, t=t: g[t], grads), t)
    close((params, state), expected(case.optimizer.__name__))


@law
def test_every_number_may_be_traced_and_mapped(case):
    def trained(numbers, params, grads):
        return run(case.make(LAYOUT, **numbers), params, grads, extra=case.extra)

    numbers = {name: jnp.full(2, value) for name, value in case.floats.items()}
    numbers["learning_rate"] *= jnp.array([1.0, 0.5])
    both = jax.jit(jax.vmap(trained, in_axes=(0, None, None)))(numbers, *start())
    plain = expected(case.optimizer.__name__, **case.hyperparameters)
    close(jax.tree.map(lambda leaf: leaf[0], both), plain, rtol=1e-4, atol=1e-5)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], both[0]) for i in (0, 1))
    with pytest.raises(AssertionError):
        close(first, second)


@law
def test_works_in_either_chain_and_ignores_unknown_extra_args(case):
    def extra_args(loss, params, t):
        return {**case.extra(loss, params, t), "a_word_that_no_rule_names": 1.0}

    tx = optax.chain(chain(optax.identity(), case.make(LAYOUT)), optax.identity())
    params, ((_, state), _) = jax.jit(lambda p, g: run(tx, p, g, extra=extra_args))(*start())
    close((params, state), expected(case.optimizer.__name__))


@law
def test_zero_gradients_give_finite_updates(case):
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), zip_dtypes(SHAPES, FLOATS))
    grads = jax.tree.map(lambda p: jnp.zeros((2, *p.shape), p.dtype), params)
    tx = case.make(LAYOUT)
    new, _ = jax.jit(lambda p, g: run(tx, p, g, extra=case.extra))(params, grads)
    chex.assert_tree_all_finite(new)


@law
def test_large_gradients_give_finite_updates(case):
    """A loss scale of 2^16 times a summed loss reaches 1e15."""
    few = {"blocks": SHAPES["blocks"]}
    params, grads = normal(few, 0), jax.tree.map(lambda g: 1e15 * g, normal(few, 1, 3))
    tx = case.make({"blocks": LAYOUT["blocks"]})
    new, _ = jax.jit(lambda p, g: run(tx, p, g, extra=case.extra))(params, grads)
    chex.assert_tree_all_finite(new)


MATRIX, BIAS = ParamLayout("matrix", (), (0,), (1,)), ParamLayout("vector", (), (), (0,))
LAYERS = {f"layer_{i}": {"kernel": MATRIX, "bias": BIAS} for i in (0, 1)}


def unstack(tree, axis=0):
    """The layers of a stacked tree, each as a subtree of its own."""
    return {f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(2)}


@law
def test_layouts_change_nothing_but_the_layout(case):
    """A stack of layers is updated like its layers, and with transposed axes its update is transposed."""
    shapes, layout = SHAPES["blocks"], LAYOUT["blocks"]
    turned = {"kernel": ParamLayout("matrix", (2,), (1,), (0,)), "bias": ParamLayout("vector", (1,), (), (0,))}
    turn = functools.partial(jax.tree.map, jnp.transpose)

    @jax.jit
    def ends(params, grads):
        stacked = params, grads
        layers = unstack(params), jax.vmap(unstack)(grads)
        other = turn(params), jax.vmap(turn)(grads)
        trees = ((layout, stacked), (LAYERS, layers), (turned, other))
        return [run(case.make(entry), *tree, extra=case.extra)[0] for entry, tree in trees]

    stacked, layers, other = ends(normal(shapes, 2), normal(shapes, 3, STEPS))
    close(layers, unstack(stacked))
    close(turn(other), stacked)


with_layouts = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.takes_layout], ids=lambda case: case.optimizer.__name__
)


@pytest.mark.slow
@with_layouts
def test_every_keyword_updates_a_stack_like_its_layers(case):
    @functools.partial(jax.jit, static_argnums=0)
    def ends(keywords, params, grads):
        trees = (LAYOUT["blocks"], params, grads), (LAYERS, unstack(params), jax.vmap(unstack)(grads))
        return [run(case.make(tree[0], **dict(keywords)), *tree[1:], extra=case.extra)[0] for tree in trees]

    starts = normal(SHAPES["blocks"], 2), normal(SHAPES["blocks"], 3, STEPS)
    for keywords in case.alternatives():
        stacked, layers = ends(tuple(keywords.items()), *starts)
        close(layers, unstack(stacked))


def program(case, layout):
    """A first step as text, without addresses of functions."""

    def step(params, grads):
        tx = case.make(layout)
        return tx.update(grads, tx.init(params), params, **case.extra(half_square, params, jnp.int32(0)))

    shapes = zip_dtypes(SHAPES["blocks"], FLOATS[:1])
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(step)(shapes, shapes)))


@with_layouts
def test_without_a_layout_every_link_uses_the_documented_one(case):
    """The inferred layout; or, as in Optax, the number of axes where dimension numbers may be given in its place."""
    names = inspect.signature(case.optimizer).parameters
    documented = by_rank if any("dimension_numbers" in name for name in names) else infer
    assert program(case, None) == program(case, documented)


@law
def test_works_in_flax_train_state_and_nnx(case):
    def in_train_state(params, grads):
        state = TrainState.create(apply_fn=None, params=params, tx=case.make())
        return state.apply_gradients(grads=grads).params

    def in_nnx(params, grads):
        model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        model.kernel[...], model.bias[...] = params["kernel"], params["bias"]
        optimizer = nnx.Optimizer(model, case.make(), wrt=nnx.Param)
        given = nnx.State({name: nnx.Param(grad) for name, grad in grads.items()})
        optimizer.update(model, given, **case.extra(half_square, params, jnp.int32(0)))
        return {"kernel": model.kernel[...], "bias": model.bias[...]}

    def alone(params, grads):
        first = jax.tree.map(lambda g: g[None], grads)
        return run(case.make(), params, first, extra=case.extra)[0]

    shapes = {"kernel": (2, 3), "bias": (3,)}
    params, grads = normal(shapes, 4), normal(shapes, 5)
    ways = [in_nnx] + [in_train_state] * (case.extra is nothing)
    expected, *others = jax.jit(lambda p, g: [way(p, g) for way in (alone, *ways)])(params, grads)
    for other in others:
        close(other, expected)


@pytest.mark.slow
@law
def test_converges_on_an_ill_conditioned_quadratic(case):
    """Curvatures from 1 to 100; the learning rate decays to zero, for optimizers with steps of constant size."""
    steps, shapes = 300, {"kernel": (4, 3), "bias": (3,)}
    curvature = {
        "kernel": jnp.logspace(0, 2, 12).reshape(4, 3),
        "bias": jnp.logspace(0, 2, 3),
    }

    def loss(params):
        return half_square(jax.tree.map(lambda p, c: p * jnp.sqrt(c), params, curvature))

    def step(carry, t):
        params, state = carry
        extra_args = case.extra(loss, params, t)
        updates, state = tx.update(jax.grad(loss)(params), state, params, **extra_args)
        return (apply_updates(params, updates), state), None

    rate = case.learning_rate
    tx = case.make({"kernel": MATRIX, "bias": BIAS}, learning_rate=lambda t: rate * (1 - t / steps))
    params = normal(shapes, 6)
    train = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(steps))[0])
    last, _ = train((params, tx.init(params)))
    assert loss(last) < 0.01 * loss(params)


@law
def test_every_number_out_of_range_is_rejected_by_name(case):
    bad = [(name, float("nan")) for name in case.floats]
    bad += [(name, -1) for name in case.floats | case.counts if name not in case.signed]
    for name, value in bad:
        with pytest.raises(ValueError, match=rf"{name}={value} is out of range: give "):
            case.make(**{name: value})


@law
def test_integer_leaves_are_rejected(case):
    tree = {"floats": jnp.ones((2, 2)), "below": {"ids": jnp.ones((2, 2), jnp.int32)}}
    with pytest.raises(ValueError, match="below/ids of dtype int32: cast it"):
        case.make().init(tree)


@law
def test_missing_parameters_are_optional_or_required(case):
    def without(params, grads):
        extra_args = case.extra(half_square, params, jnp.int32(0))
        return tx.update(grads, tx.init(params), None, **extra_args)

    tx, params = case.make(LAYOUT), normal(SHAPES, 0)
    try:
        updates, _ = jax.eval_shape(without, params, params)
    except ValueError as error:
        assert "needs the parameters" in str(error)  # noqa: PT017
    else:
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


def to_complex(tree, factor=1):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.complex64) * factor, tree)


@law
def test_complex_leaves_are_handled_or_rejected(case):
    """Multiplying all numbers by a phase multiplies the run by it, also for real numbers; or complex leaves raise.

    Under JAX's standard promotion: strict promotion rejects every product of a real and a complex number.
    """
    real, other, phase = start(), start(7), 0.6 + 0.8j
    mixed = jax.tree.map(jax.lax.complex, real, other)
    starts = to_complex(real), to_complex(real, phase), mixed, to_complex(mixed, phase)
    name = case.optimizer.__name__
    plain, _ = expected(name)
    with permissive():
        try:
            ends, _ = jax.jit(jax.vmap(trainer(name)))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts))
        except ValueError as error:
            assert f"{name} does not support complex leaves, got blocks/" in str(error)  # noqa: PT017
            return
        first, turned, mixed, mixed_turned = (jax.tree.map(lambda leaf, i=i: leaf[i], ends) for i in range(4))
        pairs = ((first, to_complex(plain)), (turned, to_complex(first, phase)))
        for got, wanted in (*pairs, (mixed_turned, to_complex(mixed, phase))):
            close(got, wanted, rtol=1e-3, atol=1e-4)


@law
def test_seeds_may_be_mapped(case):
    """Vmapped runs from several starts equal separate runs."""
    name, seeds = case.optimizer.__name__, (0, 7)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(start, seeds))
    both = jax.jit(jax.vmap(trainer(name)))(*starts)
    for i, seed in enumerate(seeds):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], both), expected(name, seed), rtol=1e-4, atol=1e-5)


@law
def test_a_layout_that_does_not_fit_is_rejected(case):
    params = normal(SHAPES, 0)
    missing = {name: entry for name, entry in LAYOUT.items() if name != "embed"}
    for layout, why in (
        ({**LAYOUT, "embed": BIAS}, "layout of embed is .* name each"),
        (missing, "tree differs from the parameters'"),
    ):
        with pytest.raises(ValueError, match=why) if case.takes_layout else contextlib.nullcontext():
            tx = case.make(layout)
            tx.update(params, tx.init(params), params, **case.extra(half_square, params, jnp.int32(0)))


DECAYS = ("weight_decay", "vector_weight_decay", "weight_decay_rate", "constrained")
MASKS = ("mask", "weight_decay_mask", "constrained_mask")


def decay_keywords(name):
    """Keywords with decay but no leaf to decay, and keywords without decay."""
    names = inspect.signature(OPTIMIZERS[name]).parameters
    decays = [key for key in DECAYS if key in names]
    masks = {key: False for key in MASKS if key in names}
    with_decay, without = ({key: pair[key == "constrained"] for key in decays} for pair in ((0.1, True), (0.0, False)))
    return masks, with_decay, without


DECAYING = [name for name in OPTIMIZERS if decay_keywords(name)[1]]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "scion")) for n in DECAYING])
def test_a_mask_chooses_the_leaves_that_decay(name):
    masks, decay, no_decay = decay_keywords(name)
    assert len(masks) == 1
    found, plain = expected(name, **masks, **decay)[0], expected(name, **no_decay)[0]
    close(found, plain)
    differs = lambda tree: any(
        jnp.max(jnp.abs(a - b)) > 1e-6 for a, b in zip(*map(jax.tree.leaves, (tree, plain)), strict=True)
    )
    assert differs(expected(name, **decay)[0]) == differs(start()[0])  # unless it takes no step yet


def test_every_optimizer_with_weight_decay_has_a_mask():
    assert all(len(decay_keywords(name)[0]) == 1 for name in DECAYING)
