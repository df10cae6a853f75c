"""Specific to Sophia: where its estimate of the curvature comes from and when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import given_diag_hessian, hutchinson_estimator_diag_hessian, sophia

PARAMS = {"w": jnp.array([0.1, 0.2, 0.3])}
HESSIAN = jnp.array([[2.0, 0.5, 0.0], [0.5, 3.0, 0.2], [0.0, 0.2, 4.0]])


def loss(params):
    return params["w"] @ HESSIAN @ params["w"] / 2


def test_the_estimate_is_the_diagonal_in_the_mean():
    tx = hutchinson_estimator_diag_hessian()

    def step(state, _):
        estimate, state = tx.update(PARAMS, state, PARAMS, obj_fn=loss)
        return state, estimate["w"]

    _, estimates = jax.lax.scan(step, tx.init(PARAMS), length=2000)
    np.testing.assert_allclose(estimates.mean(0), jnp.diag(HESSIAN), atol=0.05)


def test_the_estimate_is_made_in_the_steps_it_is_due():
    tx = sophia(0.1, b2=0.5, update_interval=3, first_estimate=2, hessian_diagonal_fn=given_diag_hessian())
    update, state, seen = jax.jit(tx.update), tx.init(PARAMS), []
    for _ in range(6):
        _, state = update(PARAMS, state, PARAMS, hessian={"w": jnp.ones(3)})
        seen.append(state[0].nu["w"][0].item())
    assert seen == [0.0, 0.5, 0.5, 0.5, 0.75, 0.75]


@pytest.mark.parametrize("estimator, name", [(None, "obj_fn="), (given_diag_hessian(), "hessian=")])
def test_what_the_estimate_is_made_of_is_required(estimator, name):
    tx = sophia(0.1, hessian_diagonal_fn=estimator)
    with pytest.raises(ValueError, match=name):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_the_loss_may_come_under_either_name():
    tx = sophia(0.1)
    ways = [tx.update(PARAMS, tx.init(PARAMS), PARAMS, **{name: loss})[1] for name in ("obj_fn", "loss_fn")]
    np.testing.assert_array_equal(*(state[0].nu["w"] for state in ways))


def test_the_share_of_unclipped_entries_is_printed(capfd):
    tx = sophia(0.1, gamma=1.0, verbose=True, print_win_rate_every_n_steps=2)
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = tx.update(jax.grad(loss)(PARAMS), state, PARAMS, obj_fn=loss)
    jax.effects_barrier()
    assert capfd.readouterr().out.split() == ["Sophia", "optimizer", "win", "rate:", "0.0"]
