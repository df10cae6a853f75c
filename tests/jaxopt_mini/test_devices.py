"""On two devices, replicated under ``pmap`` or sharded under ``jit``, every optimizer does the same as on one.

Every step blocks: on a CPU, queued steps with a collective can deadlock.
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import version

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxopt_mini import GradientTransformation, adam, apply_updates, inject_hyperparams
from jaxopt_mini.tree import by_name
from jaxopt_mini.wrappers import in_blocks, split_outputs
from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.harness import LAYOUT, half_square, nothing, run
from tests.jaxopt_mini.test_laws import STEPS, close, expected, law, start

AXIS = "data"
CRASHES = {"galore"} if version("jaxlib").startswith("0.11.") else set()  # its compiler for CPUs, under pmap


def stepper(case):
    """One step of the case, and the state before the first."""
    tx = case.make(LAYOUT)

    def step(params, state, grads, t):
        updates, state = tx.update(grads, state, params, **case.extra(half_square, params, t))
        return apply_updates(params, updates), state

    return tx.init, step


def at(tree, t):
    return jax.tree.map(lambda leaf: leaf[t], tree)


@pytest.mark.slow
@law
def test_replicated_under_pmap_it_is_the_same(case):
    """The devices have different gradients, and their mean is the gradient."""
    if case.optimizer.__name__ in CRASHES:
        pytest.skip("XLA ends in a segmentation fault")
    init, step = stepper(case)

    def on_each(params, state, grads, t):
        return step(params, state, jax.lax.pmean(grads, AXIS), t)

    together = jax.pmap(on_each, AXIS, in_axes=(None, None, 0, None), out_axes=None)
    params, grads = start()
    # Powers of two, so that the mean is exact.
    halves = jax.tree.map(lambda g: jnp.stack([g * 1.5, g * 0.5], axis=1), grads)
    state = init(params)
    for t in range(STEPS):
        params, state = jax.block_until_ready(together(params, state, at(halves, t), t))
    close((params, state), expected(case.optimizer.__name__))


def shardings(mesh, tree):
    """Each array sharded along its first axis of even length."""

    def one(leaf):
        even = [axis for axis, size in enumerate(leaf.shape) if size and size % 2 == 0]
        return NamedSharding(mesh, PartitionSpec(*[None] * even[0], AXIS) if even else PartitionSpec())

    return jax.tree.map(one, tree)


def two_devices():
    return jax.make_mesh((2,), (AXIS,), axis_types=(AxisType.Auto,))


@law
def test_sharded_under_jit_it_is_the_same(case):
    """Without given output shardings, outputs are sharded like the inputs."""
    mesh = two_devices()
    init, step = stepper(case)
    params, grads = start()
    cut = shardings(mesh, params), shardings(mesh, jax.eval_shape(init, params))
    sharded = jax.jit(step)
    params = jax.device_put(params, cut[0])
    state = jax.jit(init, out_shardings=cut[1])(params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves((params, state)))
    for t in range(STEPS):
        grad = jax.device_put(at(grads, t), cut[0])
        params, state = jax.block_until_ready(sharded(params, state, grad, t))
    assert jax.tree.map(lambda leaf: leaf.sharding, (params, state)) == cut
    close(jax.tree.map(jax.device_get, (params, state)), expected(case.optimizer.__name__))


def explicit():
    return jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Explicit,) * 2)


def cut_by_two(mesh, tree):
    """Each array sharded along its first and second axes of even length."""

    def one(leaf):
        names, spec = ["rows", "columns"], []
        for size in leaf.shape:
            spec.append(names.pop(0) if names and size and size % 2 == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, tree)


def types(tree):
    """The types that tracing depends on: shapes, dtypes and shardings."""
    return jax.tree.map(jax.typeof, tree)


def check_explicit(tx, extra, wanted):
    """Takes steps under Explicit axes: constant shardings, updates sharded like gradients, numbers as ``wanted``."""
    mesh = explicit()

    @jax.jit
    def step(params, state, grads, t):
        updates, state = tx.update(grads, state, params, **extra(half_square, params, t))
        return apply_updates(params, updates), state, updates

    with jax.set_mesh(mesh):
        params, grads = start()
        params = jax.device_put(params, cut_by_two(mesh, params))
        state = tx.init(params)
        before = types((params, state))
        for t in range(STEPS):
            grad = jax.device_put(at(grads, t), cut_by_two(mesh, params))
            params, state, updates = jax.block_until_ready(step(params, state, grad, t))
            assert types((params, state)) == before
            assert types(updates) == types(grad)
    close(jax.tree.map(jax.device_get, (params, state)), wanted)


@law
def test_under_explicit_axes_shardings_are_constant(case):
    check_explicit(case.make(LAYOUT), case.extra, expected(case.optimizer.__name__))


@pytest.mark.parametrize("inner", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
@pytest.mark.parametrize("case", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_keep_shardings_under_explicit_axes(case, inner):
    offered = {"layout": LAYOUT} if "layout" in inspect.signature(case.wrapper).parameters else {}
    tx = case.wrapper(CASES[inner].make(LAYOUT), **{**offered, **case.keywords})
    check_explicit(tx, case.extra, jax.jit(lambda p, g: run(tx, p, g, extra=case.extra))(*start()))


@pytest.mark.parametrize("inner", ["adamw", "muon", "soap", "came"])
def test_injected_hyperparameters_keep_shardings_under_explicit_axes(inner):
    """The numbers are traced, and an optimizer with automatic axes inside reads them from the state."""
    layout = {} if inner == "adamw" else {"layout": LAYOUT}
    tx = inject_hyperparams(CASES[inner].optimizer)(0.1, **layout)
    check_explicit(tx, nothing, jax.jit(lambda p, g: run(tx, p, g))(*start()))


@pytest.mark.parametrize("kind", ["blocks", pytest.param("parts", marks=pytest.mark.slow)])
def test_wrappers_of_a_factory_keep_shardings_under_explicit_axes(kind):
    make = CASES["muon"].make
    blocks = {"embed": jnp.ones((5, 2)), "blocks": {"kernel": jnp.ones((2, 2, 3)), "bias": jnp.ones((2, 3))}}
    parts = {name: (1, leaf.shape[-1] - 1) for name, leaf in by_name(start()[0]).items() if leaf.ndim == 2}
    tx = {
        "blocks": in_blocks(make, {**blocks, "scale": jnp.ones(())}, layout=LAYOUT),
        "parts": split_outputs(make, parts, layout=LAYOUT),
    }[kind]
    check_explicit(tx, nothing, jax.jit(lambda p, g: run(tx, p, g))(*start()))


def test_a_state_that_does_not_stay_where_it_lies_is_detected():
    def adam_gathered(learning_rate):
        inner = adam(learning_rate)

        def update(updates, state, params=None, **extra):
            updates, state = inner.update(updates, state, params, **extra)
            return updates, jax.lax.with_sharding_constraint(state, NamedSharding(two_devices(), PartitionSpec()))

        return GradientTransformation(inner.init, update)

    with pytest.raises(AssertionError):
        test_sharded_under_jit_it_is_the_same(dataclasses.replace(CASES["adam"], optimizer=adam_gathered))
