"""SOAP in rotated coordinates, its bases, and the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import scale_by_adam, scale_by_kl_soap, scale_by_muon, scale_by_soap, scale_by_soap_muon, soap
from tests.harness import normal, run

META = {"skip_first": False, "refresh": "eigh", "debias": "moments"}


def last_step(tx, grads):
    def steps(grads):
        state = tx.init({"w": grads[0]})
        for grad in grads:
            updates, state = tx.update({"w": grad}, state)
        return updates["w"]

    return np.asarray(jax.jit(steps)(grads))


def test_rotated_gradients_give_the_rotated_step():
    u, v = (np.linalg.qr(np.random.default_rng(i).standard_normal((5, 5)))[0].astype(np.float32) for i in (0, 1))
    grads, tx = normal((5, 5), 2, 4), scale_by_soap(precondition_frequency=2)
    plain, turned = last_step(tx, grads), last_step(tx, jnp.asarray(u @ np.asarray(grads) @ v.T))
    np.testing.assert_allclose(turned, u @ plain @ v.T, atol=2e-3 * np.abs(plain).max())


def test_power_iteration_finds_the_eigenvectors():
    """For a gradient with constant directions, in the right order after the order has been reversed."""
    grads = {"w": jnp.stack([jnp.diag(jnp.array([1.0, 2.0, 4.0]))] + [jnp.diag(jnp.array([4.0, 2.0, 1.0]))] * 60)}
    _, (state, *_) = jax.jit(lambda g: run(soap(0.0, precondition_frequency=1), {"w": jnp.ones((3, 3))}, g))(grads)
    for bases in state.bases:
        np.testing.assert_allclose(np.abs(bases["w"]), np.eye(3), atol=1e-5)
    assert np.all(np.diff(np.diag(state.nu["w"])) < 0)  # sorted along with the basis


def test_the_first_step_moves_nothing_not_even_by_decay():
    params, grads = {"w": normal((2, 3), 0), "b": normal((3,), 1)}, {"w": normal((2, 3), 2, 1), "b": normal((3,), 3, 1)}
    new, (state, *_) = run(soap(0.1, weight_decay=0.5), params, grads)
    for name in params:
        np.testing.assert_array_equal(new[name], params[name])
    assert not np.any(state.mu["w"]) and not np.any(state.nu["w"])


@pytest.mark.parametrize(
    "tx, skips",
    [
        (scale_by_soap(skip_first=False), False),
        (scale_by_soap(skip_first=False, refresh="eigh"), False),
        (scale_by_kl_soap(), True),
        (scale_by_kl_soap(eigenvalues="factors"), False),
    ],
)
def test_the_first_step_can_be_taken(tx, skips):
    grads = {"w": normal((2, 3), 0), "b": normal((3,), 1)}
    updates, _ = tx.update(grads, tx.init(grads))
    for leaf in updates.values():
        assert bool(np.any(leaf)) is not skips


def test_before_the_first_eigendecomposition_it_is_adam():
    """The bases are identities until step ``precondition_frequency``, which uses those of its own gradient."""
    grads = [{"w": normal((2, 3), seed)} for seed in range(3)]
    rule = {"b1": 0.9, "b2": 0.95, "eps": 1e-8}
    tx, adam = scale_by_soap(**rule, precondition_frequency=3, **META), scale_by_adam(**rule)
    update, state, plain = jax.jit(tx.update), tx.init(grads[0]), adam.init(grads[0])
    close = []
    for grad in grads:
        (ours, state), (updates, plain) = update(grad, state), adam.update(grad, plain)
        close.append(np.allclose(ours["w"], updates["w"], atol=1e-5))
    assert close == [True, True, False]


def test_one_side_of_kl_soap_sees_the_gradient_whitened_on_the_other():
    """Scaling an output by a constant changes the factor of the outputs, but that of the inputs only by a number."""
    grads = normal((3, 4), 0, 60)
    scaled = grads * jnp.array([8.0, 1.0, 1.0, 1.0])[None, None]

    def factors(grads):
        tx = scale_by_kl_soap(eps=1e-3, shampoo_beta=0.7, eigenvalues="factors", refresh="eigh")
        step = lambda state, g: (tx.update({"w": g}, state)[1], None)
        (state, _) = jax.jit(lambda grads: jax.lax.scan(step, tx.init({"w": grads[0]}), grads))(grads)
        return [np.asarray(factor["w"] / jnp.trace(factor["w"])) for factor in state.factors]

    (inputs, outputs), (scaled_inputs, scaled_outputs) = factors(grads), factors(scaled)
    np.testing.assert_allclose(scaled_inputs, inputs, atol=1e-3)
    assert scaled_outputs[0, 0] > 0.9 > outputs[0, 0]


def test_the_closed_gate_of_soap_muon_gives_muon():
    grads = [{"w": normal((3, 4), seed)} for seed in range(3)]
    muon = scale_by_muon("convergent", 12, debias=False, preconditioning="schatten", eps=1e-14)
    closed = scale_by_soap_muon(gated=True, gate_floor=0.0, gate_cap=0.0)
    plain, *ours = (outputs(tx, grads) for tx in (muon, closed, scale_by_soap_muon()))
    close = [[np.allclose(a["w"], b["w"], atol=1e-4) for a, b in zip(plain, own, strict=True)] for own in ours]
    assert close == [[True, True, True], [True, False, False]]


def outputs(tx, grads):
    update, state, steps = jax.jit(tx.update), tx.init(grads[0]), []
    for grad in grads:
        updates, state = update(grad, state)
        steps.append(updates)
    return steps
