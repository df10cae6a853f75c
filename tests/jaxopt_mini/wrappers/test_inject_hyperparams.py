"""Hyperparameters in the state: Optax's state and numbers, set between steps without compiling, every factory."""

import dataclasses
import inspect
import re
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    OPTIMIZERS,
    adamw,
    add_decayed_weights,
    apply_updates,
    chain,
    clip_by_norm,
    inject_hyperparams,
    sgd,
    states,
)
from tests.cases import CASES
from tests.harness import LAYOUT, SHAPES, half_square, normal, permissive, run, shared_buffers

PARAMS = {"w": jnp.array([1.0, -2.0])}


def decaying(count):
    return 0.1 / (1 + jnp.asarray(count, jnp.float32))


def test_state_and_numbers_are_those_of_optax():
    """Type for type; and each continues from the other's state."""
    keywords = {"learning_rate": decaying, "b1": 0.8, "weight_decay": 0.1}
    ours = inject_hyperparams(adamw)(**keywords)
    theirs = optax.inject_hyperparams(optax.adamw)(**keywords)
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 6)
    first, second = (jax.tree.map(lambda g, s=s: g[s], grads) for s in (slice(3), slice(3, 6)))
    with permissive():
        ends = [jax.jit(lambda p, g, t=t: run(t, p, g))(params, first) for t in (ours, theirs)]
        chex.assert_trees_all_equal_structs(*(state for _, state in ends))
        chex.assert_trees_all_equal_shapes_and_dtypes(*ends)
        chex.assert_trees_all_close(*ends, rtol=1e-5, atol=1e-6)
        crossed = [
            jax.jit(lambda p, g, s, t=t: run(t, p, g, s))(end[0], second, end[1])
            for t, end in zip((ours, theirs), reversed(ends), strict=True)
        ]
    chex.assert_trees_all_close(*crossed, rtol=1e-5, atol=1e-6)
    assert states.get(crossed[0][1], "hyperparams/learning_rate") == pytest.approx(decaying(5))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_factory_gives_what_it_gives_without(name, dtype):
    """Also under jit from ``init`` on, and in low precision, where no number is rounded to the parameters' dtype."""
    case = CASES[name]
    params, grads = (jax.tree.map(lambda a: a.astype(dtype), t) for t in (normal(SHAPES, 0), normal(SHAPES, 1, 2)))
    plain = case.make(LAYOUT)
    injected = dataclasses.replace(case, optimizer=inject_hyperparams(case.optimizer)).make(LAYOUT)

    def trained(tx):
        return jax.jit(lambda p, g: run(tx, p, g, extra=case.extra))

    expected, state = trained(plain)(params, grads)
    got, injected_state = trained(injected)(params, grads)
    chex.assert_trees_all_equal_structs(state, injected_state.inner_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, injected_state.inner_state)
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
    chex.assert_trees_all_close(
        *(jax.tree.map(lambda a: a.astype(jnp.float32), t) for t in (got, expected)), rtol=tolerance, atol=tolerance
    )


def test_setting_a_number_does_not_recompile():
    tx = chain(clip_by_norm(1.0), inject_hyperparams(adamw)(1e-3))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        updates, state = tx.update(PARAMS, state, params)
        return apply_updates(params, updates), state

    chex.clear_trace_counter()
    params, state = step(PARAMS, tx.init(PARAMS))
    moved = [jnp.abs(params["w"] - PARAMS["w"]).max()]
    for rate in (0.5, 0.25):
        states.get(state, "hyperparams")["learning_rate"] = rate
        before = params
        params, state = step(params, state)
        moved.append(jnp.abs(params["w"] - before["w"]).max())
    np.testing.assert_allclose(moved, [1e-3, 0.5, 0.25], rtol=1e-3)
    assert states.get(state, "learning_rate") == 0.25


def test_a_restored_state_keeps_the_dtypes_of_the_moments():
    """Numbers that come back from a file are float32 arrays; they must not widen bfloat16 moments, not even Optax's."""
    tx = inject_hyperparams(optax.adamw)(1e-3)
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    with permissive():
        state = tx.init(params)
        state.hyperparams.update({name: np.float32(value) for name, value in state.hyperparams.items()})
        _, new = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new.inner_state, state.inner_state)


def test_masks_switches_and_sizes_are_left_alone_and_schedules_are_not():
    mask = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    state = inject_hyperparams(adamw)(decaying, weight_decay=decaying, mask=mask).init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps", "eps_root", "weight_decay"}
    assert set(state.hyperparams_states) == {"learning_rate", "weight_decay"}
    factory = inject_hyperparams(optax.adafactor)(learning_rate=1, min_dim_size_to_factor=2)
    assert {"learning_rate", "decay_rate"} <= set(jax.jit(factory.init)({"w": jnp.ones((2, 2))}).hyperparams)


def test_static_arguments_stay():
    state = inject_hyperparams(sgd, static_args="momentum")(0.1, momentum=0.9).init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate"}
    with pytest.raises(ValueError, match=r"no argument 'momentun' \(did you mean 'momentum'\?\): choose from"):
        inject_hyperparams(sgd, static_args=("momentun",))


def test_a_mistyped_entry_of_the_state_is_refused():
    tx = inject_hyperparams(adamw)(0.1)
    state = tx.init(PARAMS)
    state.hyperparams["lr"] = 0.5
    with pytest.raises(ValueError, match=r"no entry 'lr' \(did you mean 'learning_rate'\?\): choose from"):
        tx.update(PARAMS, state, PARAMS)


def test_a_function_of_other_values_is_no_schedule():
    """Not even one that Optax would take for a schedule, as ADOPT's bound of the update."""
    for factory in (OPTIMIZERS["adopt"], optax.contrib.adopt):
        tx = inject_hyperparams(factory)(0.1, clip_value_fn=lambda count: 0.5 * count**0.25)
        state = tx.init(PARAMS)
        assert set(state.hyperparams) >= {"learning_rate", "b2"} and not state.hyperparams_states
        with permissive():
            tx.update(PARAMS, state, PARAMS)


def typed(rate: float, steps: int, scale: jax.typing.ArrayLike, bound: Callable, extra=None):
    assert type(steps) is int and callable(bound)
    return chain(add_decayed_weights(scale), sgd(rate))


def untyped(rate, steps, bound, mask=None):
    assert type(steps) is int and callable(bound(PARAMS))
    return sgd(rate)


def test_what_is_injected_follows_annotations_then_values():
    tx = inject_hyperparams(typed)(1, 4, decaying, bound=decaying, extra=decaying)
    state = tx.init(PARAMS)
    assert {name: value.dtype for name, value in state.hyperparams.items()} == dict.fromkeys(
        ("rate", "scale", "extra"), jnp.float32
    )
    assert set(state.hyperparams_states) == {"scale", "extra"}
    state = inject_hyperparams(untyped)(decaying, 4, bound=lambda params: len).init(PARAMS)
    assert set(state.hyperparams) == {"rate"} == set(state.hyperparams_states)


@pytest.mark.parametrize("rate", [0.5, 1, np.float32(0.5), np.array(0.5), jnp.float32(0.5), np.array([0.5, 0.25])])
def test_numbers_of_every_kind_are_tracked(rate):
    tx = inject_hyperparams(sgd)(rate)
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == {"learning_rate"}
    np.testing.assert_allclose(tx.update(PARAMS, state)[0]["w"], -np.float32(rate) * PARAMS["w"])


def under_optax(name, static, params, grads):
    """Parameters after training with ``optax.inject_hyperparams``, all under jit; ``static`` names arguments."""
    factory = optax.inject_hyperparams(OPTIMIZERS[name], static_args=static)
    case = dataclasses.replace(CASES[name], optimizer=factory)
    return jax.jit(lambda p, g: run(case.make(), p, g, extra=case.extra)[0])(params, grads)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_injection_works_or_names_the_argument_that_must_be_static(name):
    """Under jit, where Optax traces every integer and takes every function for a schedule."""
    parameters = inspect.signature(OPTIMIZERS[name]).parameters.values()
    static = {p.name for p in parameters if callable(p.default) and "Callable" in str(p.annotation)}
    params, grads = (jax.eval_shape(lambda t=t: t) for t in (normal(SHAPES, 0), normal(SHAPES, 1, 2)))
    abstract = lambda *arrays: jax.eval_shape(lambda *given: under_optax(name, static, *given), *arrays)
    try:
        got = abstract(params, grads)
    except ValueError as error:
        named = re.search(r'^(\w+) must be known .* pass static_args="\1"', str(error))
        assert named, error
        static.add(named[1])
        got = abstract(params, grads)
    assert jax.tree.structure(got) == jax.tree.structure(params)


@pytest.mark.parametrize("name", ["muon", "normuon", "scion"])
def test_a_traced_number_of_steps_gives_the_same_numbers(name):
    params, grads = normal({"w": (3, 4)}, 0), normal({"w": (3, 4)}, 1, 2)
    expected = jax.jit(lambda p, g: run(CASES[name].make(), p, g)[0])(params, grads)
    chex.assert_trees_all_close(under_optax(name, (), params, grads), expected, rtol=1e-5, atol=1e-5)


def test_a_dtype_may_be_asked_for():
    state = inject_hyperparams(sgd, hyperparam_dtype=jnp.bfloat16)(0.1).init(PARAMS)
    assert state.hyperparams["learning_rate"].dtype == jnp.bfloat16


def test_numbers_out_of_range_are_rejected_where_they_are_written():
    with pytest.raises(ValueError, match="b2=1.0"):
        inject_hyperparams(adamw)(0.1, b2=1.0)


def test_schedules_with_a_state_are_told_what_the_step_knows():
    class Halving:
        """Halves the rate whenever the loss is above 1."""

        def init(self):
            return jnp.float32(1.0)

        def update(self, state, *, value, **extra):
            return jnp.where(value > 1, state / 2, state)

        def __call__(self, state, **extra):
            return state

    tx = inject_hyperparams(sgd)(Halving())
    state = tx.init(PARAMS)
    for loss, expected in ((2.0, 1.0), (0.5, 0.5), (2.0, 0.5), (2.0, 0.25)):
        updates, state = tx.update(PARAMS, state, PARAMS, value=loss)
        np.testing.assert_allclose(updates["w"], -expected * PARAMS["w"])


def test_works_on_factories_with_any_signature():
    def factory(*links, rate=0.5, **rest):
        return chain(*links, add_decayed_weights(rest["decay"]), sgd(rate))

    tx = inject_hyperparams(factory)(clip_by_norm(1.0), rate=0.25, decay=0.0)
    state = tx.init(PARAMS)
    assert set(state.hyperparams) == {"rate"}
    assert half_square(tx.update(PARAMS, state, PARAMS)[0]) == pytest.approx(0.25**2 / 2)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_arrays_of_the_caller_are_copied_into_the_state(case):
    """A donated state deletes neither the caller's learning rate nor the next state's."""
    rate, params = jnp.float32(0.1), normal(SHAPES, 0)
    tx = inject_hyperparams(case.optimizer)(rate)
    assert not shared_buffers(tx.init(params), tx.init(params), params, rate)
