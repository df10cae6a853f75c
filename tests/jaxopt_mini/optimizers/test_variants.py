"""Details of the newer variants of Adam: first steps, weight decay, memory, tensors of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, adam, adamw, ademamix, adopt, came, laprop, mars, stable_adamw

STACK = {"w": ParamLayout("matrix", (0,), (1,), (2,))}


def one_step(tx, grads, params):
    return tx.update(grads, tx.init(params), params)


def test_adopt_does_not_even_decay_in_its_first_call():
    params = {"w": jnp.ones(3)}
    tx = adopt(0.1, weight_decay=0.5)
    updates, state = one_step(tx, params, params)
    assert not updates["w"].any()
    updates, _ = tx.update(params, state, params)
    np.testing.assert_allclose(updates["w"], -0.1 * (0.1 + 0.5), rtol=1e-6)


def test_ademamix_keeps_the_dtype_of_its_memories():
    params = {"w": jnp.ones(3)}
    _, (state, *_) = one_step(ademamix(0.1, mu_dtype="bfloat16"), params, params)
    dtypes = [memory["w"].dtype.name for memory in (state.m1, state.m2, state.nu)]
    assert dtypes == ["bfloat16", "bfloat16", "float32"]


@pytest.mark.parametrize("name", ["alpha", "b3"])
def test_ademamix_takes_a_schedule_or_a_warm_up(name):
    with pytest.raises(ValueError, match=f"{name} is already a schedule: give either it or {name}_warmup"):
        ademamix(0.1, **{name: lambda count: 0.5, f"{name}_warmup": 10})


def test_laprop_decays_without_the_rate_where_asked():
    params, grads = {"w": jnp.ones(2), "b": jnp.ones(2)}, {"w": jnp.zeros(2), "b": jnp.zeros(2)}
    tx = laprop(0.1, weight_decay=0.5, decay_by_rate=False, mask={"w": True, "b": False})
    updates, _ = one_step(tx, grads, params)
    assert updates["w"].tolist() == [-0.5, -0.5] and not updates["b"].any()


@pytest.mark.parametrize("factory", [stable_adamw, mars])
def test_a_spike_in_one_layer_of_a_stack_touches_no_other(factory):
    tx = factory(0.1, layout=STACK)
    params = {"w": jnp.ones((2, 3, 4))}
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    calm, _ = tx.update({"w": jnp.ones((2, 3, 4))}, state, params)
    spiked, _ = tx.update({"w": jnp.ones((2, 3, 4)).at[1, 0, 0].set(100.0)}, state, params)
    np.testing.assert_array_equal(calm["w"][0], spiked["w"][0])
    assert jnp.any(calm["w"][1] != spiked["w"][1])


def test_stable_adamw_is_adam_while_nothing_surprises():
    params = {"w": jnp.ones(4)}
    stable, plain = stable_adamw(0.1, eps=1e-8), adam(0.1, b2=0.99)
    np.testing.assert_allclose(one_step(stable, params, params)[0]["w"], one_step(plain, params, params)[0]["w"])


def test_mars_gives_vectors_to_adamw_with_a_rate_of_its_own():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    grads = jax.tree.map(lambda p: 100 * p, params)
    ours, _ = one_step(mars(0.1, vector_learning_rate=0.02), grads, params)
    theirs, _ = one_step(adamw(0.02, b1=0.9, b2=0.95, weight_decay=0.1), grads, params)
    np.testing.assert_array_equal(ours["b"], theirs["b"])


def test_mars_names_its_forms():
    with pytest.raises(ValueError, match="unknown form='sgd': choose from adamw, lion"):
        mars(0.1, form="sgd")


def test_came_keeps_its_factors_in_float32_where_float16_would_lose_them():
    params = {"w": jnp.ones((3, 4), jnp.float16)}
    updates, (state, *_) = one_step(came(1e-4), {"w": jnp.full((3, 4), 1e-4, jnp.float16)}, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.nu, state.doubt))} == {"float32"}
    assert jnp.all(updates["w"] < 0)
