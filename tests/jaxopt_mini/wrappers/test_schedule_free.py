"""Schedule-free learning: its three sequences, and the parameters to evaluate with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import (
    adam,
    chain,
    clip_by_norm,
    partition,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
    sgd,
    states,
)
from tests.harness import normal, run

SHAPES = {"w": (3, 4), "b": (4,)}
STEPS = 20


def trained(tx):
    return jax.jit(lambda params, grads: run(tx, params, grads))(normal(SHAPES, 0), normal(SHAPES, 1, STEPS))


def test_x_is_the_mean_of_z_at_a_constant_rate():
    params, grads, b1 = normal(SHAPES, 0), normal(SHAPES, 1, STEPS), 0.9
    y, state = trained(schedule_free(sgd(0.1), 0.1, b1=b1))
    z = params["w"][None] - 0.1 * jnp.cumsum(grads["w"], axis=0)
    np.testing.assert_allclose(state.z["w"], z[-1], rtol=0, atol=1e-5)
    x = schedule_free_eval_params(state, y)["w"]
    np.testing.assert_allclose(x, z.mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(y["w"], (1 - b1) * z[-1] + b1 * x, rtol=0, atol=1e-5)


def test_evaluation_params_are_found_in_a_chain_and_a_partition():
    plain = schedule_free_sgd(0.1)
    y, state = trained(plain)
    expected = schedule_free_eval_params(state, y)
    y, state = trained(chain(clip_by_norm(1e9), plain))
    np.testing.assert_allclose(states.evaluation_params(state, y)["w"], expected["w"], rtol=1e-5)
    y, state = trained(partition({"free": plain, "rest": adam(0.1)}, {"w": "free", "b": "rest"}))
    found = states.evaluation_params(state, y)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)
    np.testing.assert_array_equal(found["b"], y["b"])


def test_nothing_is_evaluated_but_what_is_trained_without_an_average():
    y, state = trained(adam(0.1))
    assert states.evaluation_params(state, y) is y
    with pytest.raises(ValueError, match="expected the state of schedule_free, got a tuple"):
        schedule_free_eval_params(state, y)


@pytest.mark.parametrize("ahead, expected", [(True, 0.0), (False, -0.25)])
def test_the_first_step_of_the_warm_up_counts_in_the_authors_way(ahead, expected):
    params = grads = jnp.ones(())
    tx = schedule_free_sgd(1.0, warmup_steps=4, rate_ahead=ahead)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates, expected, atol=1e-6)


def test_a_first_rate_of_zero_changes_nothing():
    params = grads = jnp.ones(())
    tx = schedule_free_adamw(lambda count: jnp.minimum(count.astype(jnp.float32), 1.0), rate_ahead=False)
    updates, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates, 0.0, atol=1e-6)
    assert state.weight_sum == 0


def test_the_buffers_of_parameters_and_state_may_both_be_donated():
    params = {"w": jnp.ones(3)}
    tx = schedule_free_sgd(0.1)
    step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
    updates, _ = step(params, tx.init(params))
    assert jnp.all(updates["w"] < 0)


def test_without_an_average_in_y_it_is_rejected():
    with pytest.raises(ValueError, match=r"b1=0 .* \(0, 1\)"):
        schedule_free(sgd(0.1), b1=0.0)


def test_annealing_moves_the_gradient_towards_the_average():
    """At a constant learning rate b1 of AMUSE follows 1 - ((T - 1) / (t - 1))^rho (1 - b1) from step T on."""
    tx, params = schedule_free(sgd(0.1), 0.1, b1=0.6, rate_ahead=False, anneal=0.8, anneal_from=3), {"w": jnp.ones(2)}
    state, found = tx.init(params), []
    for _ in range(8):
        _, state = tx.update(params, state, params)
        found.append(float(state.schedule_free_state.b1))
    expected = [0.6] * 3 + [1 - (2 / (t - 1)) ** 0.8 * 0.4 for t in range(4, 9)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
