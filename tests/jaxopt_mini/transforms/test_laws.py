"""Properties of every clip and every other transformation."""

from __future__ import annotations

import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxopt_mini import (
    CLIPS,
    ParamLayout,
    adaptive_clip,
    add_decayed_weights,
    centralize,
    chain,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    ema,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    scale_by_schedule,
    scale_by_trust_ratio,
    snapshot,
    transforms,
    warmup_constant,
)
from jaxopt_mini.transforms import scale, scale_by_shape, trace
from jaxopt_mini.tree import norm, path_name
from tests.harness import LAYOUT, SHAPES, normal, run


def kernels(tree):
    """Mask of the matrices of layers."""
    return jax.tree.map_with_path(lambda path, leaf: path_name(path).endswith("kernel"), tree)


# Name -> function of (a number that may be traced, a layout) that makes the transformation.
LINKS = {
    "clip_by_norm": lambda x, layout: clip_by_norm(x),
    "clip_by_norm, ord=1": lambda x, layout: clip_by_norm(x, ord=1),
    "clip_by_norm, ord=3": lambda x, layout: clip_by_norm(x, ord=3),
    "clip_by_norm, ord=inf": lambda x, layout: clip_by_norm(x, ord=jnp.inf),
    "clip_by_global_norm": lambda x, layout: clip_by_global_norm(x),
    "clip_by_value": lambda x, layout: clip_by_value(x),
    "clip_by_block_rms": lambda x, layout: clip_by_block_rms(x, layout=layout),
    "adaptive_clip": lambda x, layout: adaptive_clip(x, layout=layout),
    "add_decayed_weights": lambda x, layout: add_decayed_weights(x),
    "add_decayed_weights, schedule": lambda x, layout: add_decayed_weights(warmup_constant(x, 9, warmup=4)),
    "add_decayed_weights, mask": lambda x, layout: add_decayed_weights(x, kernels),
    "scale": lambda x, layout: scale(x),
    "scale_by_learning_rate": lambda x, layout: scale_by_learning_rate(x),
    "scale_by_learning_rate, schedule": lambda x, layout: scale_by_learning_rate(warmup_constant(x, 9, warmup=4)),
    "scale_by_shape": lambda x, layout: scale_by_shape(lambda fan_in, fan_out: x * fan_out, layout),
    "scale_by_trust_ratio": lambda x, layout: scale_by_trust_ratio(eps=x, max_norm=x, layout=layout),
    "scale_by_param_block_rms": lambda x, layout: scale_by_param_block_rms(x, layout=layout),
    "scale_by_factored_rms": lambda x, layout: scale_by_factored_rms(decay_rate=x, layout=layout),
    "scale_by_factored_rms, factored": lambda x, layout: scale_by_factored_rms(
        decay_rate=x, min_dim_size_to_factor=2, layout=layout
    ),
    "scale_by_schedule": lambda x, layout: scale_by_schedule(warmup_constant(x, 9, warmup=4)),
    "trace": lambda x, layout: trace(x),
    "trace, nesterov": lambda x, layout: trace(x, nesterov=True),
    "trace, dampening": lambda x, layout: trace(x, dampening=x),
    "trace, bfloat16": lambda x, layout: trace(x, accumulator_dtype=jnp.bfloat16),
    "ema": lambda x, layout: ema(x),
    "ema, plain": lambda x, layout: ema(x, debias=False),
    "ema, float32": lambda x, layout: ema(x, accumulator_dtype=jnp.float32),
    "centralize": lambda x, layout: centralize(layout=layout),
    "snapshot": lambda x, layout: snapshot("size", norm),
}
WITHOUT_A_NUMBER = ("centralize", "snapshot")
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)
each = pytest.mark.parametrize("make", LINKS.values(), ids=LINKS)
STEPS = 3


def test_every_link_and_every_clip_has_a_case():
    names = {name for name, value in vars(transforms).items() if inspect.isfunction(value)}
    assert names == {name.split(",")[0] for name in LINKS}
    assert CLIPS.keys() == {name for name in names if "clip" in name} - {"clip_by_global_norm"}


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_a_clip_takes_its_threshold_and_the_rest_by_keyword(clip):
    threshold, *rest = inspect.signature(clip).parameters.values()
    assert threshold.name == "threshold"
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in rest)
    with pytest.raises(ValueError, match="threshold=-1 is out of range"):
        clip(-1)


def abstract(dtypes):
    """The common tree whose leaves cycle through the dtypes."""
    leaves, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return treedef.unflatten(jax.ShapeDtypeStruct(s, d) for s, d in zip(leaves, itertools.cycle(dtypes), strict=False))


MIXTURES = {
    "float32": (FLOATS[:1], FLOATS[:1]),
    "bfloat16": (FLOATS[1:2], FLOATS[1:2]),
    "float16": (FLOATS[2:], FLOATS[2:]),
    "wide gradients": (FLOATS[1:], FLOATS[:1]),
    "narrow gradients": (FLOATS[:1], FLOATS[1:]),
    "mixed": (FLOATS, FLOATS[1:]),
}


@each
@pytest.mark.parametrize(("param_dtypes", "grad_dtypes"), MIXTURES.values(), ids=MIXTURES)
def test_state_keeps_structure_shapes_and_dtypes(make, param_dtypes, grad_dtypes):
    def step(params, grads):
        state = tx.init(params)
        return state, *tx.update(grads, state, params)

    tx, grads = make(0.5, LAYOUT), abstract(grad_dtypes)
    state, updates, new = jax.eval_shape(step, abstract(param_dtypes), grads)
    chex.assert_trees_all_equal_structs(state, new)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, grads)


@each
def test_steps_are_traced_once_and_equal_a_scan(make):
    tx, params, grads = make(0.5, LAYOUT), normal(SHAPES, 0), normal(SHAPES, 1, STEPS)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(tx.update, n=1))
    state, updates = tx.init(params), None
    for t in range(STEPS):
        updates, state = step(jax.tree.map(lambda g, t=t: g[t], grads), state, params)

    def body(state, grad):
        updates, state = tx.update(grad, state, params)
        return state, updates

    scanned, seen = jax.jit(lambda state: jax.lax.scan(body, state, grads))(tx.init(params))
    last = jax.tree.map(lambda leaf: leaf[-1], seen)
    chex.assert_trees_all_close((updates, state), (last, scanned), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [make for name, make in LINKS.items() if name not in WITHOUT_A_NUMBER])
def test_its_number_may_be_traced_and_mapped(make):
    def trained(number):
        return run(make(number, LAYOUT), params, grads)[0]

    params, grads = normal(SHAPES, 2), normal(SHAPES, 3, STEPS)
    both = jax.jit(jax.vmap(trained))(jnp.array([0.5, 0.25]))
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1))
    chex.assert_trees_all_close(first, jax.jit(lambda: trained(0.5))(), rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(first, second, rtol=1e-3)


@each
def test_zero_gradients_and_zero_parameters_stay_finite(make):
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), abstract(FLOATS))
    tx = make(0.0, LAYOUT)
    updates, state = jax.jit(tx.update)(zeros, tx.init(zeros), zeros)
    chex.assert_trees_all_equal(updates, zeros)
    chex.assert_tree_all_finite(state)


@each
def test_works_in_optax_chain_and_ignores_unknown_extra_args(make):
    params, grads = normal(SHAPES, 4), normal(SHAPES, 5)
    alone, mixed = make(0.5, LAYOUT), optax.chain(optax.identity(), chain(make(0.5, LAYOUT)))

    @jax.jit
    def both(params, grads):
        expected, _ = alone.update(grads, alone.init(params), params)
        got, _ = mixed.update(grads, mixed.init(params), params, a_word_that_no_link_names=1.0)
        return got, expected

    chex.assert_trees_all_equal(*both(params, grads))


@pytest.mark.parametrize(
    "name",
    [name for name in LINKS if "norm" not in name],  # which is one of the whole tree
)
def test_a_stack_of_layers_is_updated_like_its_layers(name):
    make = LINKS[name]
    layers = {"kernel": ParamLayout("matrix", (), (0,), (1,)), "bias": ParamLayout("vector", (), (), (0,))}
    params, grads = normal(SHAPES["blocks"], 6), normal(SHAPES["blocks"], 7, STEPS)

    @jax.jit
    def both(params, grads):
        whole, _ = run(make(0.5, LAYOUT["blocks"]), params, grads)
        parts = [
            run(
                make(0.5, layers),
                jax.tree.map(lambda p, i=i: p[i], params),
                jax.tree.map(lambda g, i=i: g[:, i], grads),
            )[0]
            for i in range(2)
        ]
        return whole, jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    chex.assert_trees_all_close(*both(params, grads), rtol=1e-5, atol=1e-6)
