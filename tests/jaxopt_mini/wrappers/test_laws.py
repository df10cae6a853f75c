"""Properties of every wrapper, around several optimizers."""

from __future__ import annotations

import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_mini import WRAPPERS, ParamLayout, accumulate, adam, apply_updates, chain, sgd, skip_nonfinite, states
from jaxopt_mini.wrappers import inner_updates
from tests.cases import CASES
from tests.cases_wrappers import INNERS, WRAPPED
from tests.harness import LAYOUT, SHAPES, half_square, normal, run, shared_buffers

STEPS = 4
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)
pairs = pytest.mark.parametrize(
    "case, inner",
    [pytest.param(case, inner, id=f"{name}-{by}") for name, case in WRAPPED.items() for by, inner in INNERS.items()],
)


def each(test):
    """Runs a law over every wrapper around AdamW, except where the row gives a reason why it can't hold."""

    @pytest.mark.parametrize("case", WRAPPED.values(), ids=WRAPPED)
    @functools.wraps(test)
    def checked(case, **others):
        if test.__name__ in case.exempt:
            pytest.skip(case.exempt[test.__name__])
        test(case, **others)

    return checked


def make(case, inner=INNERS["adamw"], layout=None, rate=0.01, **keywords):
    offered = {"layout": layout} if "layout" in inspect.signature(case.wrapper).parameters else {}
    return case.wrapper(inner(rate), **{**offered, **case.keywords, **keywords})


def numbers(case):
    """The floats of the signature."""
    parameters = inspect.signature(case.wrapper).parameters
    return {n: case.keywords.get(n, p.default) for n, p in parameters.items() if isinstance(p.default, float)}


def close(got, expected, rtol=1e-5, atol=1e-6):
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)


def start():
    return normal(SHAPES, 0), normal(SHAPES, 1, STEPS)


@functools.cache
def expected(name):
    case = WRAPPED[name]
    return jax.jit(lambda params, grads: run(make(case), params, grads, extra=case.extra))(*start())


def test_the_table_and_the_cases_name_the_same_wrappers():
    assert WRAPPERS == {name: case.wrapper for name, case in WRAPPED.items()}


def zip_dtypes(dtypes):
    """Abstract arrays whose leaves cycle through the dtypes."""
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return treedef.unflatten(jax.ShapeDtypeStruct(s, d) for s, d in zip(leaves, itertools.cycle(dtypes)))


MIXTURES = (
    (FLOATS[:1], FLOATS[:1]),
    (FLOATS[1:2], FLOATS[1:2]),
    (FLOATS[1:], FLOATS[:1]),
    (FLOATS[:1], FLOATS[1:]),
    (FLOATS, FLOATS[1:]),
)


def abstract_step(tx, case, param_dtypes, grad_dtypes):
    def step(params, grads):
        state = tx.init(params)
        updates, new = tx.update(grads, state, params, **case.extra(half_square, params, jnp.int32(0)))
        return state, new, params, apply_updates(params, updates), grads, updates

    return jax.eval_shape(step, zip_dtypes(param_dtypes), zip_dtypes(grad_dtypes))


@pairs
def test_state_keeps_structure_shapes_and_dtypes(case, inner):
    for dtypes in MIXTURES:
        state, new, params, new_params, _, _ = abstract_step(make(case, inner), case, *dtypes)
        chex.assert_trees_all_equal_structs(state, new)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, new_params)


@pytest.mark.parametrize("calls", [1, 5, 8])
@each
def test_inner_updates_are_as_many_as_the_inner_optimizer_counts(case, calls):
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, calls)
    tx = case.wrapper(sgd(lambda count: 0.01), **case.keywords)
    _, state = jax.jit(lambda params, grads: run(tx, params, grads, extra=case.extra))(params, grads)
    counted = states.learning_rate(state, lambda count: count)
    assert inner_updates(case.wrapper, calls, **case.keywords) == counted


@each
def test_updates_keep_the_dtypes_of_the_gradients(case):
    for dtypes in MIXTURES:
        *_, grads, updates = abstract_step(make(case), case, *dtypes)
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, updates)


@each
def test_steps_are_traced_once_and_equal_a_scan(case):
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, grad, t):
        updates, state = tx.update(grad, state, params, **case.extra(half_square, params, t))
        return apply_updates(params, updates), state

    chex.clear_trace_counter()
    tx = make(case)
    params, grads = start()
    state = tx.init(params)
    for t in range(STEPS):
        params, state = step(params, state, jax.tree.map(lambda g, t=t: g[t], grads), t)
    close((params, state), expected(case.wrapper.__name__))


@each
def test_every_array_of_a_fresh_state_has_its_own_buffer(case):
    """Around every optimizer; a copy of the parameters in the state is a copy."""
    given = {name: jnp.float32(value) for name, value in numbers(case).items()}
    params = start()[0]
    for row in CASES.values():
        offered = {"layout": LAYOUT} if "layout" in inspect.signature(case.wrapper).parameters else {}
        tx = case.wrapper(row.make(LAYOUT), **{**offered, **case.keywords, **given})
        assert not shared_buffers(tx.init(params), tx.init(params), params, given)


@each
def test_parameters_and_state_may_be_donated_from_the_first_step(case):
    def step(params, state, grad, t):
        updates, state = tx.update(grad, state, params, **case.extra(half_square, params, t))
        return apply_updates(params, updates), state

    tx, donated = make(case), jax.jit(step, donate_argnums=(0, 1))
    params, grads = start()
    state = tx.init(params)
    for t in range(STEPS):
        params, state = donated(params, state, jax.tree.map(lambda g, t=t: g[t], grads), t)
    close((params, state), expected(case.wrapper.__name__))


@each
def test_every_number_may_be_traced(case):
    traced = {name: jnp.float32(value) for name, value in numbers(case).items()}
    ends = jax.jit(lambda values, p, g: run(make(case, **values), p, g, extra=case.extra))(traced, *start())
    close(ends, expected(case.wrapper.__name__), rtol=1e-4, atol=1e-5)


@each
def test_every_number_out_of_range_is_rejected_by_name(case):
    for name in numbers(case):
        with pytest.raises(ValueError, match=rf"{name}.*nan"):
            make(case, **{name: float("nan")})


@each
def test_works_in_either_chain_and_ignores_unknown_extra_args(case):
    def extra_args(loss, params, t):
        return {**case.extra(loss, params, t), "a_word_that_no_rule_names": 1.0}

    tx = optax.chain(chain(optax.identity(), make(case)), optax.identity())
    params, ((_, state), _) = jax.jit(lambda p, g: run(tx, p, g, extra=extra_args))(*start())
    close((params, state), expected(case.wrapper.__name__))


@each
def test_wraps_optimizers_of_optax(case):
    """Any transformation of the protocol will do."""
    tx = case.wrapper(optax.sgd(0.01, momentum=0.9), **case.keywords)
    ours = make(case, INNERS["sgd"])
    both = jax.jit(lambda p, g: [run(t, p, g, extra=case.extra)[0] for t in (tx, ours)])(*start())
    close(*both)


@each
def test_around_accumulated_gradients_it_works_on_updates(case):
    """Also around a skipped step: both orders are the same optimizer."""
    params, grads = start()
    for outer in (functools.partial(accumulate, steps=2), skip_nonfinite):
        grads = grads if outer is not skip_nonfinite else jax.tree.map(lambda g: g.at[1].set(jnp.nan), grads)
        orders = case.wrapper(outer(INNERS["sgd"](0.01)), **case.keywords), outer(make(case, INNERS["sgd"]))
        close(*(run(tx, params, grads, extra=case.extra)[0] for tx in orders))


@each
def test_accumulation_that_it_can_not_move_into_is_rejected(case):
    """Otherwise every micro-batch would count as an update."""
    params = start()[0]
    accumulated = chain(accumulate(sgd(0.01), steps=2)), optax.MultiSteps(sgd(0.01), 2).gradient_transformation()
    for inner in accumulated:
        with pytest.raises(ValueError, match="micro-batch"):
            case.wrapper(inner, **case.keywords).init(params)


@each
def test_zero_gradients_give_finite_updates(case):
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), zip_dtypes(FLOATS))
    grads = jax.tree.map(lambda p: jnp.zeros((2, *p.shape), p.dtype), params)
    new, _ = jax.jit(lambda p, g: run(make(case), p, g, extra=case.extra))(params, grads)
    chex.assert_tree_all_finite(new)


MATRIX, BIAS = ParamLayout("matrix", (), (0,), (1,)), ParamLayout("vector", (), (), (0,))
LAYERS = {f"layer_{i}": {"kernel": MATRIX, "bias": BIAS} for i in (0, 1)}


@each
def test_a_stack_of_layers_is_updated_like_its_layers(case):
    def unstack(tree):
        return {f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(2)}

    @jax.jit
    def ends(params, grads):
        trees = ((LAYOUT["blocks"], (params, grads)), (LAYERS, (unstack(params), jax.vmap(unstack)(grads))))
        return [run(make(case, layout=layout), *tree, extra=case.extra)[0] for layout, tree in trees]

    stacked, layers = ends(normal(SHAPES["blocks"], 2), normal(SHAPES["blocks"], 3, STEPS))
    close(layers, unstack(stacked))


@each
def test_turned_matrices_are_updated_alike(case):
    turned = {"kernel": ParamLayout("matrix", (2,), (1,), (0,)), "bias": ParamLayout("vector", (1,), (), (0,))}
    turn = functools.partial(jax.tree.map, jnp.transpose)

    @jax.jit
    def ends(params, grads):
        trees = ((LAYOUT["blocks"], (params, grads)), (turned, (turn(params), jax.vmap(turn)(grads))))
        return [run(make(case, layout=layout), *tree, extra=case.extra)[0] for layout, tree in trees]

    straight, other = ends(normal(SHAPES["blocks"], 2), normal(SHAPES["blocks"], 3, STEPS))
    close(turn(other), straight)


@each
def test_converges(case):
    """On a quadratic with curvatures from 1 to 100, while the rate falls to zero."""
    steps, shapes = 400, {"kernel": (4, 3), "bias": (3,)}
    curvature = {"kernel": jnp.logspace(0, 2, 12).reshape(4, 3), "bias": jnp.logspace(0, 2, 3)}

    def loss(params):
        return half_square(jax.tree.map(lambda p, c: p * jnp.sqrt(c), params, curvature))

    def step(carry, t):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params, **case.extra(loss, params, t))
        return (apply_updates(params, updates), state), None

    tx = make(case, lambda rate: adam(lambda t: rate * (1 - t / steps)), rate=0.1)
    params = normal(shapes, 6)
    (last, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))((params, tx.init(params)))
    assert loss(last) < 0.01 * loss(params)


@each
def test_bytes_are_those_of_the_row(case):
    tx = make(case, lambda rate: adam(rate))
    params = {"w": jnp.zeros((256, 256))}
    total = states.bytes_per_parameter(tx, params)
    counters = 32 / 256**2  # a few numbers of 4 bytes
    assert 8 + case.bytes <= total <= 8 + case.bytes + counters


@each
def test_missing_parameters_are_optional_or_required(case):
    params = start()[0]
    tx = case.wrapper(INNERS["sgd"](0.1), **case.keywords)
    extra_args = case.extra(half_square, params, jnp.int32(0))
    try:
        updates, _ = jax.eval_shape(lambda g, s: tx.update(g, s, None, **extra_args), params, tx.init(params))
    except ValueError as error:
        assert "needs the parameters" in str(error)  # noqa: PT017
    else:
        chex.assert_trees_all_equal_shapes(updates, params)


@each
def test_integer_leaves_are_rejected(case):
    tree = {"w": jnp.ones((2, 2), jnp.int32)}
    with pytest.raises(ValueError, match="int32"):
        make(case).init(tree)
