"""One step, two launchers: with uneven masks, every gradient is that of one device, and so are their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import ParamLayout, sgd
from jaxopt_mini.base import GradientTransformationExtraArgs
from jaxopt_mini.schedules import constant
from minigpt_flax.train.config.mesh import read_mesh
from minigpt_flax.train.parallel.launch import LAUNCHERS
from minigpt_flax.train.parallel.sharding import make_mesh, state_shardings
from minigpt_flax.train.state import init_state
from minigpt_flax.train.step import make_step

PARAMS = {"in": jax.random.normal(jax.random.key(0), (8, 16)), "out": jax.random.normal(jax.random.key(1), (16, 8))}
LAYOUT = jax.tree.map(lambda _: ParamLayout("matrix", (), (0,), (1,)), PARAMS)
TENSOR = {"in": 1, "out": 0}
ROWS = np.random.default_rng(0).integers(0, 8, (16, 9))
ROWS[:6] = np.where(np.arange(9)[None] > 2, 0, ROWS[:6])  # a few rows have few tokens that count
WAYS = [
    ("jit", "data=8", 1),
    ("jit", "zero=8", 1),
    ("jit", "data=2,fsdp=4", 1),
    ("jit", "data=2,tensor=4", 1),
    ("pmap", "data=8", 1),
    ("jit", "data=1", 4),
    ("jit", "data=4", 4),
    ("pmap", "data=4", 4),
]


def loss_sum(params, inputs, targets, key):
    """Bigrams; a target of 0 doesn't count."""
    logits = jnp.tanh(params["in"][inputs]) @ params["out"]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    counts = (targets != 0).astype(jnp.float32)
    return jnp.sum(losses * counts), jnp.sum(counts)


def mean(params):
    total, count = loss_sum(params, ROWS[:, :-1], ROWS[:, 1:], None)
    return total / count


def launched(parallel, mesh, accum, *, make, init, layout, tensor):
    """The step, the state before it, and what places the rows of a batch for it."""
    mesh = make_mesh(read_mesh(mesh))
    shardings = state_shardings(mesh, jax.eval_shape(init), layout, tensor)
    launcher = LAUNCHERS[parallel]

    def place(rows):
        order, sharding = launcher.order(accum, len(rows) // accum, mesh)
        return jax.device_put(rows.astype(np.int32)[order], sharding)

    return launcher.compile(make, mesh, shardings), jax.jit(init, out_shardings=shardings)(), place


def one_step(tx, *way):
    """Changes by one step, and its metrics."""
    make = lambda axis: make_step(loss_sum, tx, constant(1.0, 10), key=jax.random.key(0), layout=LAYOUT, axis=axis)
    step, state, place = launched(*way, make=make, init=lambda: init_state(PARAMS, tx), layout=LAYOUT, tensor=TENSOR)
    state, metrics = step(state, place(ROWS))
    return jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), state.params, PARAMS), metrics


each_way = pytest.mark.parametrize(("parallel", "mesh", "accum"), WAYS)


@each_way
def test_every_gradient_is_that_of_one_device(parallel, mesh, accum):
    moved, metrics = one_step(sgd(1.0), parallel, mesh, accum)
    loss, grads = jax.value_and_grad(mean)(PARAMS)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(moved[name], -np.asarray(grad), atol=1e-6)


def optimizer_with_loss():
    """An optimizer that calls ``loss_fn``: for the gradient, and the curvature along it, forward over reverse."""

    def update(grads, state, params, *, loss_fn, value, **extra):
        slope = jax.grad(loss_fn)(params)
        _, curved = jax.jvp(jax.grad(loss_fn), (params,), (grads,))
        updates = jax.tree.map(lambda s, c: s + c + loss_fn(params) - value, slope, curved)
        return updates, state

    return GradientTransformationExtraArgs(lambda params: (), update)


@each_way
def test_loss_fn_of_an_optimizer_can_be_differentiated_twice(parallel, mesh, accum):
    moved, _ = one_step(optimizer_with_loss(), parallel, mesh, accum)
    grads = jax.grad(mean)(PARAMS)
    _, curved = jax.jvp(jax.grad(mean), (PARAMS,), (grads,))
    for name in PARAMS:
        np.testing.assert_allclose(moved[name], np.asarray(grads[name] + curved[name]), atol=1e-5)
