"""Skipped steps: non-finite gradients, outliers of the loss or gradient norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import adamw, skip_nonfinite, skip_spikes
from jaxopt_mini.transforms import trace
from tests.harness import permissive

PARAMS = {"w": jnp.ones(2), "b": jnp.ones(())}


def steps(tx, values, **told):
    """Updates of w[0] and the states, for gradients full of one value each."""

    def step(state, inputs):
        value, told = inputs
        updates, state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, value), PARAMS), state, PARAMS, **told)
        return state, (updates["w"][0], state)

    values = jnp.asarray(values, jnp.float32)
    return jax.jit(lambda v, told: jax.lax.scan(step, tx.init(PARAMS), (v, told))[1])(values, told)


def test_skipped_steps_leave_the_inner_state_and_count():
    updates, state = steps(skip_nonfinite(trace(0.5)), [1, jnp.nan, jnp.inf, 1, -jnp.inf])
    np.testing.assert_array_equal(updates, [1, 0, 0, 1.5, 0])
    np.testing.assert_array_equal(state.in_a_row, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(state.skipped, [0, 1, 2, 2, 3])


def test_one_entry_of_one_leaf_is_enough():
    tx = skip_nonfinite(trace(0.5))
    grads = {"w": jnp.array([1.0, jnp.nan]), "b": jnp.ones(())}
    updates, _ = tx.update(grads, tx.init(PARAMS))
    np.testing.assert_array_equal(updates["b"], 0.0)


@pytest.mark.usefixtures("correction_of_optax")
def test_agrees_with_optax_until_it_gives_up():
    values = [1, jnp.nan, 2, jnp.nan, jnp.nan, 3, jnp.nan, 4]
    tx = optax.apply_if_finite(optax.adamw(0.1), max_consecutive_errors=3)

    def theirs(values):
        def step(state, value):
            updates, state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, value), PARAMS), state, PARAMS)
            return state, (updates["w"][0], state)

        return jax.lax.scan(step, tx.init(PARAMS), values)[1]

    with permissive():
        expected, their_state = jax.jit(theirs)(jnp.asarray(values, jnp.float32))
    updates, state = steps(skip_nonfinite(adamw(0.1), max_in_a_row=3), values)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    np.testing.assert_array_equal(state.in_a_row, their_state.notfinite_count)
    np.testing.assert_array_equal(state.skipped, their_state.total_notfinite)


def test_having_given_up_once_the_count_restarts():
    values = [jnp.nan] * 7
    updates, state = steps(skip_nonfinite(optax.identity(), max_in_a_row=2), values)
    np.testing.assert_array_equal(jnp.isnan(updates), [False, False, True, False, False, True, False])
    np.testing.assert_array_equal(state.in_a_row, [1, 2, 0, 1, 2, 0, 1])


def test_a_spike_is_skipped_and_a_lasting_change_accepted():
    calm = [1.0 + 0.01 * (-1) ** t for t in range(16)]
    values = [*calm, 50.0, 1.0, *([3.0] * 16)]
    updates, state = steps(skip_spikes(optax.identity(), sigmas=3.0, window=16), values)
    assert updates[16] == 0 and updates[17] == 1.0
    assert updates[-1] == 3.0
    assert state.skipped[-1] >= 1


def test_the_bound_is_mean_and_sample_deviation_of_the_window():
    """Against NumPy, with the window half full, full, and wrapped around."""
    values = np.abs(np.random.default_rng(0).normal(1, 0.3, 60)).astype(np.float32)
    values[[20, 40]] = 4.0
    updates, state = steps(skip_spikes(optax.identity(), sigmas=2.0, window=10, watch="loss"), values, value=values)
    for t, value in enumerate(values):
        seen = values[max(0, t - 10) : t]
        bound = np.mean(seen) + 2 * np.std(seen, ddof=1) if len(seen) >= 5 else np.inf
        assert (updates[t] == 0) == (value > bound), t
    assert state.skipped[-1] == np.sum(np.asarray(updates) == 0) > 1


def test_what_is_not_finite_is_skipped_from_the_start_and_not_remembered():
    updates, state = steps(skip_spikes(optax.identity(), window=4), [jnp.nan, 1.0, jnp.inf, 1.0])
    np.testing.assert_array_equal(updates, [0, 1, 0, 1])
    np.testing.assert_array_equal(state.count, [0, 1, 1, 2])
    assert jnp.all(jnp.isfinite(state.history))


def test_bad_arguments_are_rejected():
    for keywords, message in (
        ({"watch": "value"}, "unknown watch='value': choose from norm, loss"),
        ({"window": 1}, "window=1 .*integer >= 2"),
        ({"sigmas": -1.0}, "sigmas=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            skip_spikes(optax.identity(), **keywords)
    with pytest.raises(ValueError, match="max_in_a_row=0 .*integer >= 1"):
        skip_nonfinite(optax.identity(), max_in_a_row=0)
    tx = skip_spikes(optax.identity(), watch="loss")
    with pytest.raises(ValueError, match="value=loss"):
        tx.update(PARAMS, tx.init(PARAMS))
