"""Against Optax, where it has the optimizer: same state tree, same numbers, interchangeable states."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import apply_updates, chain, masked
from jaxopt_mini.transforms import scale
from jaxopt_mini.tree import cast_like
from tests.cases import CASES
from tests.harness import LAYOUT, SHAPES, half_square, normal, permissive, run

STEPS = 100
EAGER_STEPS = 8
PAIRS = [
    pytest.param(case, keywords, id="-".join([name, *keywords]))
    for name, case in CASES.items()
    if case.optax
    for keywords in ({}, *case.variants)
]
DEFAULTS = [param for param in PAIRS if not param.values[1]]
NARROW = [param for param in PAIRS if "bfloat16" in param.values[1].values()]
WIDE = [param for param in PAIRS if param not in NARROW]


def pair(case, keywords, rate=None, layout=LAYOUT):
    """Our transformation and Optax's, with the same keywords."""
    rate = case.learning_rate if rate is None else rate
    ours = dataclasses.replace(case, keywords={}).make(layout, learning_rate=rate, **keywords)
    return ours, optax.with_extra_args_support(case.optax(rate, **keywords))


def problem(dtype=jnp.float32):
    grads = jax.tree.map(lambda g: g + 1, normal(SHAPES, 1, STEPS))  # noise around a direction
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (normal(SHAPES, 0), grads))


def assert_same(ours, theirs, start):
    """Same types, structure, shapes and dtypes; values within 1e-5 of the parameters' mean movement."""
    chex.assert_trees_all_equal_structs(ours, theirs)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    moved = [np.abs(np.subtract(*ends)) for ends in zip(*map(jax.tree.leaves, (ours[0], start)), strict=True)]
    movement = np.mean(np.concatenate([leaf.ravel() for leaf in moved]))
    chex.assert_trees_all_close(ours[0], theirs[0], rtol=0, atol=1e-5 * movement)
    for a, b in zip(*map(jax.tree.leaves, (ours[1], theirs[1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.max(np.abs(b), initial=1e-6))


def trainer(tx, case):
    """(params, state, grads) -> (params, state), compiled once."""
    return jax.jit(lambda params, state, grads: run(tx, params, grads, state, case.extra))


def train_by_halves(ours, theirs, case):
    """Fifty steps and fifty more, each half under either library: {(first, second): (params, state)}."""
    params, grads = problem()
    halves = [jax.tree.map(lambda g, s=s: g[s], grads) for s in (slice(50), slice(50, None))]
    with permissive():
        ways = {"ours": trainer(ours, case), "theirs": trainer(theirs, case)}
        first = {who: ways[who](params, tx.init(params), halves[0]) for who, tx in (("ours", ours), ("theirs", theirs))}
        return {(a, b): ways[b](*first[a], halves[1]) for a in ways for b in ways}


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("case, keywords", WIDE)
def test_numbers_and_states_agree_and_each_continues_under_the_other(case, keywords):
    ends = train_by_halves(*pair(case, keywords), case)
    for end in ends.values():
        assert_same(end, ends["theirs", "theirs"], problem()[0])


def test_adamw_agrees_with_its_own_correction_too():
    case = CASES["adamw"]
    ends = train_by_halves(*pair(case, {}), case)
    assert_same(ends["ours", "ours"], ends["theirs", "theirs"], problem()[0])


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("case, keywords", DEFAULTS)
def test_agree_in_chains_under_masks_and_schedules(case, keywords):
    def schedule(count):
        return case.learning_rate * jnp.exp(-0.01 * count)

    mask = {"embed": True, "blocks": {"kernel": True, "bias": False}, "scale": True}
    ours, theirs = pair(case, keywords, schedule)
    ours, theirs = (
        chain(scale(0.5), masked(ours, mask)),
        optax.chain(optax.scale(0.5), optax.masked(theirs, mask)),
    )
    ends = train_by_halves(ours, theirs, case)
    for end in ends.values():
        assert_same(end, ends["theirs", "theirs"], problem()[0])


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize("case, keywords", DEFAULTS)
def test_agree_without_jit(case, keywords):
    few = {"embed": LAYOUT["embed"], "scale": LAYOUT["scale"]}
    ours, theirs = pair(case, keywords, layout=few)
    start, grads = ({leaf: tree[leaf] for leaf in few} for tree in problem())
    grads = jax.tree.map(lambda g: g[:EAGER_STEPS], grads)
    params, state = start, ours.init(start)
    for t in range(EAGER_STEPS):
        extra_args = case.extra(half_square, params, t)
        updates, state = ours.update(jax.tree.map(lambda g, t=t: g[t], grads), state, params, **extra_args)
        params = apply_updates(params, updates)
    with permissive():
        end = trainer(theirs, case)(start, theirs.init(start), grads)
    assert_same((params, state), end, start)


@pytest.mark.usefixtures("correction_of_optax")
@pytest.mark.parametrize(
    "case, keywords, dtype",
    [pytest.param(*param.values, jnp.bfloat16, id=param.id) for param in DEFAULTS]
    + [pytest.param(*param.values, jnp.float32, id=param.id) for param in NARROW],
)
def test_bfloat16_agrees_step_by_step(case, keywords, dtype):
    """With bfloat16 parameters, or moments alone: 100 times, one step of each from the same state, along Optax's path.

    Optax computes in bfloat16 and rounds by up to 2^-9 after each operation (Adam has about ten per update); ours
    computes in float32 and rounds once, when storing. So one step may differ by about 2^-6 of its size, in the mean
    over the entries (an entry near zero may change its sign), and the paths would diverge with every step: in bfloat16
    Optax's b2 = 0.999 is 1, so that its average never decays, and its b1 = 0.9 is 0.898. The scalars of a state are
    float32 here (see test_departures), and in this test in Optax too.
    """
    ours, theirs = pair(case, keywords)
    start, grads = problem(dtype)

    def step(carry, inputs):
        (params, state), (grad, t) = carry, inputs
        extra_args = case.extra(half_square, params, t)
        mine = ours.update(grad, state, params, **extra_args)
        updates, new = theirs.update(grad, state, params, **extra_args)
        state = cast_like(new, state)
        return (apply_updates(params, cast_like(updates, params)), state), (mine, cast_like((updates, new), mine))

    with permissive():
        carry = start, ours.init(start)
        first = theirs.init(start)
        narrowed = jax.tree.map(lambda a, b: a.astype(b.dtype) if a.shape == () else a, carry[1], first)
        chex.assert_trees_all_equal(narrowed, first, strict=True)
        mine, other = jax.jit(lambda c, g: jax.lax.scan(step, c, (g, jnp.arange(STEPS))))(carry, grads)[1]
    chex.assert_trees_all_equal_structs(mine, other)
    chex.assert_trees_all_equal_shapes_and_dtypes(mine, other)
    for a, b in zip(*map(jax.tree.leaves, (mine, other)), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        assert np.mean(np.abs(a - b)) <= 2**-6 * np.mean(np.abs(b))
