"""Optimizers that estimate their learning rate: Prodigy, D-Adaptation, DoG, DoWG."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import dadapt_adamw, dog, dowg, prodigy, sgd, states
from tests.harness import LAYOUT, SHAPES, normal, run, shared_buffers

RULES = [prodigy, dadapt_adamw, dog, dowg]


@pytest.mark.parametrize("factory", [prodigy, dadapt_adamw])
def test_a_gradient_of_zero_leaves_the_estimate_where_optax_has_nan(factory):
    params = jnp.ones(2)
    ends = []
    for tx in (factory(), getattr(optax.contrib, factory.__name__)()):
        _, state = tx.update(jnp.zeros(2), tx.init(params), params)
        ends.append(state.estim_lr)
    assert ends[0] == jnp.float32(1e-6)
    assert jnp.isnan(ends[1])


@pytest.mark.parametrize("factory", RULES)
def test_the_rate_found_follows_the_scale_of_the_problem(factory):
    """From 100 times as far it takes about 100 times as large steps, at the same learning rate of 1."""

    def rate(scale):
        loss = lambda params: jnp.sum(jnp.abs(params - scale))
        params = jnp.zeros(4)
        tx = factory()

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (params + updates, state), jnp.max(jnp.abs(updates))

        _, sizes = jax.lax.scan(step, (params, tx.init(params)), length=400)
        return jnp.max(sizes)

    assert 20 < rate(100.0) / rate(1.0) < 500


@pytest.mark.parametrize("factory", RULES)
def test_the_first_parameters_are_a_copy(factory):
    """The buffers of parameters and state can then both be donated."""
    params = {"w": jnp.ones(3)}
    state = factory().init(params)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)}
    assert params["w"].unsafe_buffer_pointer() not in pointers


def l_dog(start, grads, lr, first, eps, decay):
    """The rule of L-DoG's authors for one tensor, written out in float64."""
    start = p = np.asarray(start, np.float64)
    distance, total = first(np.linalg.norm(start)), eps
    for grad in np.asarray(grads, np.float64):
        g = grad + decay * p
        distance, total = max(distance, np.linalg.norm(p - start)), total + np.sum(g**2)
        p = p - lr * distance / np.sqrt(total) * g
    return p


@pytest.mark.parametrize("kind", ["heuristic", "distance"])
def test_l_dog_has_a_learning_rate_for_each_tensor_and_layer(kind):
    first = {"heuristic": lambda size: 0.01 * (1 + size), "distance": lambda size: 0.01}[kind]
    tx = dog(0.5, (kind, 0.01), 1e-3, 0.1, per_tensor=True, layout=LAYOUT)
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 4)
    found, _ = run(tx, params, grads)
    for leaf, stacked in ((lambda tree: tree["embed"], False), (lambda tree: tree["blocks"]["kernel"], True)):
        layers = range(2) if stacked else [...]
        for i in layers:
            start, seen = leaf(params)[i], leaf(grads)[:, i] if stacked else leaf(grads)
            np.testing.assert_allclose(leaf(found)[i], l_dog(start, seen, 0.5, first, 1e-3, 0.1), rtol=1e-5)
    assert not shared_buffers(tx.init(params), params)


def test_l_dog_of_one_tensor_is_dog():
    params, grads = normal({"w": (3, 2)}, 0), normal({"w": (3, 2)}, 1, 4)
    ends = [run(dog(init_step=("distance", 0.1), per_tensor=each), params, grads)[0]["w"] for each in (False, True)]
    np.testing.assert_allclose(*ends, rtol=1e-6)


def test_float16_norms_do_not_overflow():
    params = jnp.ones(4, jnp.float16)
    updates, _ = dog(init_step=("distance", 0.1)).update(
        jnp.full(4, 1000.0, jnp.float16), dog(init_step=("distance", 0.1)).init(params), params
    )
    assert jnp.all(jnp.abs(updates + 0.05) < 1e-3)


def test_the_first_step_may_be_given_as_a_learning_rate():
    params = grads = jnp.ones(4)
    tx = dog(init_step=("learning_rate", 0.25))
    updates, _ = tx.update(grads, tx.init(params), params)
    expected, _ = sgd(0.25).update(grads, sgd(0.25).init(params))
    assert jnp.array_equal(updates, expected)


def test_an_unknown_first_step_is_rejected():
    with pytest.raises(ValueError, match="guess.*distance, heuristic, learning_rate"):
        dog(init_step=("guess", 1.0))


def test_the_estimate_is_found_in_the_state():
    assert states.get(prodigy(estim_lr0=0.5).init(jnp.ones(2)), "estim_lr") == 0.5
