"""Every name that Optax also has takes Optax's arguments: names, order, kinds, defaults; and gives its numbers."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_mini as jm
from jaxopt_mini import schedules, transforms, wrappers
from tests.harness import half_square, normal, permissive

LATER = "the arguments without a default in Optax have one here"
FUNCTION = "the default is another object that computes the same"
# (name, argument) -> why it differs from Optax's on purpose; "" stands for the whole signature.
EXCEPTIONS = {
    ("LookaheadState", ""): "the slow parameters are kept in the state, instead of in a pair of parameters",
    ("lookahead", "fast_optimizer"): "the first argument of every wrapper here is called ``inner``",
    ("lookahead", "sync_period"): LATER,
    ("lookahead", "slow_step_size"): LATER,
    ("schedule_free", "learning_rate"): LATER,
    ("sam", ""): "takes the radius and ``loss_fn``, instead of an adversarial optimizer and a period",
    ("polyak_sgd", ""): "the learning rate comes first in every optimizer here, so all else is passed by keyword",
    ("adopt", "clip_value_fn"): FUNCTION,
    ("scale_by_adopt", "clip_value_fn"): FUNCTION,
    ("scale_by_factored_rms", "decay_rate_fn"): FUNCTION,
    ("sophia", "hessian_diagonal_fn"): "None stands for Optax's default, Hutchinson's estimator",
}


def shared():
    """Name -> (ours, Optax's) of everything public that both have and that isn't the same object."""
    ours = {name: value for module in (wrappers, transforms, schedules, jm) for name, value in vars(module).items()}
    theirs = vars(optax.contrib) | vars(optax)
    return {
        name: (value, theirs[name])
        for name, value in sorted(ours.items())
        if name in theirs and callable(value) and not name.startswith("_") and value is not theirs[name]
    }


PAIRS = shared()


def problems(name, ours, theirs):
    """(argument, difference) of our signature, a superset of Optax's, whose additions are optional and keyword-only."""
    ours, theirs = (list(inspect.signature(function).parameters.values()) for function in (ours, theirs))
    places = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
    mine = {p.name: p for p in ours}
    for index, their in enumerate(theirs):
        if their.kind is their.VAR_POSITIONAL:
            own = places[index] if index < len(places) else None
        else:
            own = mine.pop(their.name, None)
        if own is None:
            yield their.name, "missing"
        elif own.kind is not their.kind:
            yield their.name, f"{own.kind.description} instead of {their.kind.description}"
        elif their.kind is their.POSITIONAL_OR_KEYWORD and places[index] is not own:
            yield their.name, "in another place"
        elif own.default is not their.default and not own.default == their.default:
            yield their.name, f"default {own.default} instead of {their.default}"
    for name, extra in mine.items():
        if (
            extra.kind is extra.POSITIONAL_OR_KEYWORD
            or extra.default is extra.empty
            and extra.kind is extra.KEYWORD_ONLY
        ):
            yield name, "an addition that isn't keyword-only with a default"


@pytest.mark.parametrize("name", PAIRS)
def test_signatures_are_those_of_optax(name):
    found = dict(problems(name, *PAIRS[name]))
    reasons = {argument for of, argument in EXCEPTIONS if of == name}
    if "" in reasons:
        assert found, f"{name} needs no exception"
    else:
        assert found.keys() - {"inner"} == reasons, found


def test_exceptions_are_about_shared_names():
    assert {name for name, _ in EXCEPTIONS} <= PAIRS.keys()
    assert len(PAIRS) > 70 and {"adamw", "masked", "clip_by_global_norm", "scale_by_lion"} <= PAIRS.keys()


def shapes_of(function, params):
    """The shapes of the state and of the updates without a learning rate; None if there must be one."""
    extra_args = {"value": jnp.float32(1.0), "key": jax.random.key(0), "obj_fn": half_square, "loss_fn": half_square}
    try:
        tx = optax.with_extra_args_support(function(None))
        return jax.eval_shape(lambda: tx.update(params, tx.init(params), params, **extra_args))
    except (TypeError, ValueError):
        return None


@pytest.mark.parametrize("name", sorted(jm.OPTIMIZERS.keys() & PAIRS.keys()))
def test_a_learning_rate_of_none_is_taken_where_optax_takes_it(name):
    params = {"w": jnp.ones((3, 4))}
    with permissive():
        expected = shapes_of(PAIRS[name][1], params)
    if expected is not None:
        got = shapes_of(PAIRS[name][0], params)
        assert jax.tree.leaves(got) == jax.tree.leaves(expected)


def test_defaults_that_are_functions_compute_what_optax_computes():
    for name in ("adopt", "scale_by_adopt", "scale_by_factored_rms"):
        argument = next(argument for of, argument in EXCEPTIONS if of == name)
        ours, theirs = (inspect.signature(function).parameters[argument].default for function in PAIRS[name])
        values = (jnp.arange(5.0), 0.7) if argument == "decay_rate_fn" else (jnp.arange(5.0),)
        np.testing.assert_allclose(ours(*values), theirs(*values), rtol=1e-6)


SHAPES = {"w": (3, 4), "b": (4,)}
GALORE = {"w": optax.contrib.GaLoreDimensionNumbers(1, 0), "b": None}


def halving(count):
    return 0.5 ** jnp.asarray(count, jnp.float32)


def bounded(count, rate):
    return jnp.minimum(1 - (count + 1.0) ** -rate, 0.5)


def by_place(*arguments):
    """Calls both with the same positional arguments."""
    return lambda function: function(*arguments)


def by_name(**arguments):
    return lambda function: function(**arguments)


# The function, and a call of either one.
CALLS = {
    "sgd, momentum by place": ("sgd", by_place(0.1, 0.9)),
    "sgd without a rate": ("sgd", by_place(None)),
    "adamw, b1 by place": ("adamw", by_place(0.005, 0.9)),
    "adamw, all by place": ("adamw", by_place(0.005, 0.8, 0.9, 1e-6, 1e-7, None, 0.1, {"w": True, "b": False})),
    "adamw without a rate": ("adamw", by_place(None, 0.9)),
    "adadelta without a rate": ("adadelta", by_place()),
    "lion": ("lion", by_place(0.1, 0.8, 0.9, None, 0.2)),
    "rmsprop": ("rmsprop", by_place(0.1, 0.8, 1e-6, 0.5, False, True, 0.9, True)),
    "nadam, nesterov": ("nadam", by_name(learning_rate=0.1, nesterov=False)),
    "nadamw, nesterov": ("nadamw", by_name(learning_rate=0.1, nesterov=False)),
    "scale_by_lion, smooth": ("scale_by_lion", by_name(mode="smooth", smooth_beta=0.5)),
    "scale_by_lion, refined": ("scale_by_lion", by_name(mode="refined")),
    "scale_by_sm3, sum": ("scale_by_sm3", by_place(0.8, 1.0, 1e-6)),
    "scale_by_sm3, mean": ("scale_by_sm3", by_place(0.8, 0.9, 1e-6)),
    "scale_by_factored_rms": ("scale_by_factored_rms", by_place(True, 0.7, -1, 2, 1e-20, bounded)),
    "scale_by_learning_rate": ("scale_by_learning_rate", by_place()),
    "polyak_sgd, scaling": ("polyak_sgd", by_name(scaling=0.3, max_learning_rate=0.2)),
    "polyak_sgd, scheduled scaling": ("polyak_sgd", by_name(scaling=halving, max_learning_rate=10.0)),
    "scale_by_galore": ("scale_by_galore", by_place(2, 1, 0.5, None, GALORE)),
    "scale_by_galore, by rank": ("scale_by_galore", by_place(2)),
    "galore, one entry": ("galore", by_name(learning_rate=0.1, rank=2, weight_dimension_numbers=GALORE["w"])),
    "muon, by place": ("muon", by_place(0.1, (2.0, -1.5, 0.5), 3, 0.9)),
    "clip_by_global_norm": ("clip_by_global_norm", by_place(0.5)),
    "clip_by_global_norm, loose": ("clip_by_global_norm", by_name(max_norm=50.0)),
}


def trajectory(tx, steps=2):
    """The updates of a few steps and the last state; ``value`` is the loss, ``tags`` an extra tree."""
    tx = optax.with_extra_args_support(tx)
    params, state, updates = normal(SHAPES, 0), tx.init(normal(SHAPES, 0)), []
    for step in range(steps):
        new, state = tx.update(normal(SHAPES, step + 1), state, params, value=jnp.float32(2.0), tags=params)
        params = optax.apply_updates(params, new)
        updates.append(new)
    return updates, state


def assert_same(ours, theirs):
    with permissive():
        expected = trajectory(theirs)
    got = trajectory(ours)
    chex.assert_trees_all_equal_structs(got, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_calls_give_the_numbers_and_states_of_optax(name):
    function, call = CALLS[name]
    assert_same(*map(call, PAIRS[function]))


def test_scale_by_muon_takes_dimension_numbers():
    """Of a tree of matrices only, as Optax fails on others; (4, 2, 3) is a batch of two."""
    shapes, axes = {"w": (3, 4), "heads": (4, 2, 3)}, {"w": (1, 0), "heads": (0, 2)}
    numbers = {name: optax.contrib.MuonDimensionNumbers(*pair) for name, pair in axes.items()}
    params, grads = normal(shapes, 0), normal(shapes, 1)
    with permissive():
        theirs = optax.contrib.scale_by_muon(weight_dimension_numbers=numbers)
        expected = theirs.update(grads, theirs.init(params))
    ours = jm.scale_by_muon(weight_dimension_numbers=numbers)
    chex.assert_trees_all_close(ours.update(grads, ours.init(params)), expected, rtol=1e-4, atol=1e-6)


def add_tags():
    """Adds the extra arg ``tags``, a tree like the parameters."""
    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None, *, tags, **extra: (jax.tree.map(jnp.add, updates, tags), state),
    )


def test_extra_args_like_the_parameters_are_masked_too():
    mask, how = {"w": True, "b": False}, {"mask_compatible_extra_args": True}
    assert_same(jm.masked(add_tags(), mask, **how), optax.masked(add_tags(), mask, **how))
    parts = {True: add_tags(), False: optax.sgd(0.1)}
    assert_same(jm.partition(parts, mask, **how), optax.partition(parts, mask, **how))
    with pytest.raises(ValueError, match="mismatch|structure"):
        trajectory(jm.masked(add_tags(), mask))


def test_one_entry_of_dimension_numbers_is_for_matrices():
    """Also in Muon, where Optax fails on the vectors of the tree; an entry of a vector alone is an error."""
    entry = optax.contrib.MuonDimensionNumbers()
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1)
    one, each = (
        jm.muon(0.1, muon_weight_dimension_numbers=numbers).update(
            grads, jm.muon(0.1, muon_weight_dimension_numbers=numbers).init(params), params
        )[0]
        for numbers in (entry, {"w": entry, "b": None})
    )
    chex.assert_trees_all_equal(one, each)
    for tx in (
        jm.muon(0.1, muon_weight_dimension_numbers={"w": entry, "b": entry}),
        jm.galore(0.1, weight_dimension_numbers=dict.fromkeys(SHAPES, GALORE["w"])),
    ):
        with pytest.raises(ValueError, match=r"for matrices, got a leaf of shape \(4,\): give it None"):
            tx.init(params)


@pytest.mark.usefixtures("correction_of_optax")
def test_a_checkpoint_of_a_chain_with_optax_clip_resumes():
    """The swap that the guide suggests: same structure of the state, so that Orbax restores it."""
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1))
    ours = jm.chain(jm.clip_by_global_norm(1.0), jm.adamw(0.1))
    with permissive():
        _, state = theirs.update(grads, theirs.init(params), params)
        expected, _ = theirs.update(grads, state, params)
    chex.assert_trees_all_equal_structs(ours.init(params), state)
    got, _ = ours.update(grads, state, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def test_nadam_takes_a_momentum_decay_with_nesterov_only():
    with pytest.raises(ValueError, match=r"momentum_decay=0.004 needs nesterov=True: omit one of them"):
        jm.nadam(0.1, nesterov=False, momentum_decay=4e-3)


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="unknown mode='soft': choose from hard, smooth, refined"):
        jm.scale_by_lion(mode="soft")
