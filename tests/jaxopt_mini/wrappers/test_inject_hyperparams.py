"""Hyperparameters in the state: Optax's state and numbers, set between steps without compiling, every factory."""

import dataclasses

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
    with pytest.raises(ValueError, match="'beta'.*choose from learning_rate, momentum"):
        inject_hyperparams(sgd, static_args=("beta",))


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
