"""States in few bits and parameters in bfloat16: memory, deviation from float32, small updates aren't lost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import OPTIMIZERS, adam, adamw, apply_updates, low_precision, sgd, states
from jaxopt_mini.quantize import Blocks
from jaxopt_mini.transforms import scale
from tests import known_8_bit
from tests.cases import CASES
from tests.harness import SHAPES, normal, run

FORMATS = ("float32", "bfloat16", "int8")


def regression(tx, dtype=jnp.float32, steps=300):
    """Loss and distance moved of a two-layer network on a fixed problem, trained in batches."""
    generator = np.random.default_rng(0)
    inputs = jnp.asarray(generator.standard_normal((256, 64)), jnp.float32)
    targets = jnp.tanh(inputs @ jnp.asarray(generator.standard_normal((64, 8)) / 8, jnp.float32))
    params = {
        "in": jnp.asarray(generator.standard_normal((64, 128)) / 8, dtype),
        "out": jnp.asarray(generator.standard_normal((128, 8)) / 12, dtype),
    }

    def loss(params, x, y):
        hidden = jnp.tanh(x @ params["in"].astype(jnp.float32))
        return jnp.mean(jnp.square(hidden @ params["out"].astype(jnp.float32) - y))

    def step(carry, t):
        params, state = carry
        batch = [jax.lax.dynamic_slice_in_dim(a, (t % 8) * 32, 32) for a in (inputs, targets)]
        updates, state = tx.update(jax.grad(loss)(params, *batch), state, params)
        return (apply_updates(params, updates), state), None

    end = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.arange(steps))[0][0])(params)
    return float(loss(end, inputs, targets)), end


def test_8_bits_are_as_accurate_as_the_known_8_bit_adam():
    """Deviation from float32 in units of the movement, the same for both within a few percent; and from each other."""
    generator = np.random.default_rng(0)
    sizes = 10.0 ** generator.uniform(-2, 0, (8, 512))
    grads = {"w": jnp.asarray((generator.standard_normal((40, 8, 512)) + 0.3) * sizes, jnp.float32)}
    params = {"w": jnp.zeros((8, 512))}
    exact, ours = (
        jax.jit(lambda p, g, tx=tx: run(tx, p, g)[0]["w"])(params, grads)
        for tx in (adam(0.01), low_precision(adam(0.01), moments="int8", min_size=0))
    )
    theirs = known_8_bit.adam(params["w"], grads["w"], 0.01)
    movement = np.abs(exact).mean()
    ours_off, theirs_off, apart = (
        np.abs(a - b).mean() / movement for a, b in ((ours, exact), (theirs, exact), (ours, theirs))
    )
    assert ours_off == pytest.approx(theirs_off, rel=0.05)
    assert ours_off < 0.05 and apart < 0.1 * ours_off


@pytest.mark.parametrize("moments, bound", [("bfloat16", 0.005), ("int8", 0.03)])
def test_moments_in_few_bits_reach_the_loss_of_float32(moments, bound):
    """After 300 steps the weights differ by 0.2 % with bfloat16 moments, by 1.6 % with 8 bits."""
    reference, expected = regression(adam(2e-3))
    loss, end = regression(low_precision(adam(2e-3), moments=moments, min_size=0))
    assert loss < 1.02 * reference
    for a, b in zip(*map(jax.tree.leaves, (end, expected)), strict=True):
        assert jnp.linalg.norm(a - b) < bound * jnp.linalg.norm(b)


@pytest.mark.parametrize("rounding, bound", [("stochastic", 1.1), ("master", 1.02)])
def test_bfloat16_parameters_reach_the_loss_of_float32(rounding, bound):
    reference, _ = regression(adam(2e-4))
    loss, end = regression(low_precision(adam(2e-4), moments="float32", rounding=rounding), jnp.bfloat16)
    lost, _ = regression(low_precision(adam(2e-4), moments="float32", rounding="nearest"), jnp.bfloat16)
    assert end["in"].dtype == jnp.bfloat16
    assert loss < bound * reference < lost


def test_steps_too_small_for_bfloat16_arrive_in_the_mean():
    """Four hundred steps of 1/4096 on weights of 1, where bfloat16 has a spacing of 1/128."""
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    grads = {"w": jnp.full((400, 64, 64), 1 / 4096)}
    means = {}
    for rounding in ("nearest", "stochastic", "master"):
        tx = low_precision(scale(1.0), rounding=rounding)
        end, _ = jax.jit(lambda p, g, tx=tx: run(tx, p, g))(params, grads)
        means[rounding] = float(jnp.mean(end["w"].astype(jnp.float32)))
    assert means["nearest"] == 1.0
    assert means["master"] == 1 + 12 / 128  # 400 / 4096 = 12.5 / 128, of which the even neighbor is the nearest
    # the sum of 400 roundings of variance at most (1/256)^2 on 4096 weights: four deviations are 0.005
    assert means["stochastic"] == pytest.approx(1 + 400 / 4096, abs=0.005)


def test_parameters_are_the_nearest_to_their_master():
    params, grads = normal({"w": (40, 30)}, 0, dtype=jnp.bfloat16), normal({"w": (40, 30)}, 1, 50)
    tx = low_precision(adamw(0.01), moments="float32", rounding="master")
    end, state = jax.jit(lambda p, g: run(tx, p, g))(params, grads)
    np.testing.assert_array_equal(end["w"], state.master["w"].astype(jnp.bfloat16))
    exact, _ = jax.jit(lambda p, g: run(adamw(0.01), p, g))(
        {"w": params["w"].astype(jnp.float32)}, normal({"w": (40, 30)}, 1, 50)
    )
    chex.assert_trees_all_close(state.master, exact, rtol=1e-5, atol=1e-6)


def test_the_inner_optimizer_is_untouched_where_nothing_is_narrow():
    params, grads = normal(SHAPES, 0), normal(SHAPES, 1, 10)
    tx = low_precision(adamw(0.1), moments="float32", rounding="nearest")
    both = [jax.jit(lambda p, g, tx=tx: run(tx, p, g)[0])(params, grads) for tx in (tx, adamw(0.1))]
    chex.assert_trees_all_close(*both, rtol=1e-6, atol=1e-7)


def test_steps_are_reproducible_and_seeds_differ():
    params, grads = normal({"w": (64, 64)}, 0, dtype=jnp.bfloat16), normal({"w": (64, 64)}, 1, 3)
    ends = [
        jax.jit(lambda p, g, s=seed: run(low_precision(sgd(1e-3), seed=s), p, g))(params, grads) for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(ends[0][0]["w"], ends[1][0]["w"])
    assert jnp.any(ends[0][0]["w"] != ends[2][0]["w"])


@pytest.mark.parametrize("changed", ["moments", "rounding"])
def test_the_key_of_an_update_changes_its_rounding(changed):
    params = normal({"w": (64, 64)}, 0, dtype=jnp.bfloat16 if changed == "rounding" else jnp.float32)
    tx = low_precision(adam(1e-3), moments="bfloat16" if changed == "moments" else "float32", min_size=0)
    update = jax.jit(lambda **extra: tx.update(params, tx.init(params), params, **extra))
    without, none, *keyed = (
        update(**extra) for extra in ({}, {"key": None}, *({"key": jax.random.key(i)} for i in (0, 0, 1)))
    )
    chex.assert_trees_all_equal(without, none)
    chex.assert_trees_all_equal(keyed[0], keyed[1])
    rounded = lambda result: states.get(result[1], "mu")["w"] if changed == "moments" else result[0]["w"]
    assert len({np.asarray(rounded(result)).tobytes() for result in (without, keyed[0], keyed[2])}) == 3


@pytest.mark.parametrize("moments, bytes", [("float32", 8), ("bfloat16", 4), ("int8", 2 * (1 + 4 / 256))])
def test_bytes_a_parameter(moments, bytes):
    params = {"w": jnp.zeros((512, 512), jnp.bfloat16)}
    for rounding, more in (("stochastic", 0), ("master", 4)):
        tx = low_precision(adam(0.1), moments=moments, rounding=rounding)
        assert states.bytes_per_parameter(tx, params) == pytest.approx(bytes + more, abs=1e-4)


def test_small_parameters_and_other_leaves_keep_their_precision():
    """A bias stacked over layers is small however many layers there are."""
    params = {"blocks": {"kernel": jnp.zeros((80, 64, 64)), "bias": jnp.zeros((80, 64))}}
    state = low_precision(adam(0.1), moments="int8").init(params)
    found = states.get(state, "mu")["blocks"]
    assert isinstance(found["kernel"], Blocks) and found["kernel"].codes.shape == (80, 64, 64)
    assert found["bias"].dtype == jnp.float32
    assert states.get(state, "ScaleByAdamState.count").dtype == jnp.int32


@pytest.mark.parametrize("moments", FORMATS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_takes_the_state_of_any_optimizer(name, moments):
    """Structure, shapes and dtypes stay, and no state takes more memory than in float32."""

    def step(params, grads):
        state = tx.init(params)
        updates, new = tx.update(grads, state, params, **case.extra(lambda p: jnp.float32(1.0), params, jnp.int32(0)))
        return state, new, updates

    case = CASES[name]
    tx = low_precision(case.make(), moments=moments, min_size=0)
    params = jax.eval_shape(lambda: normal(SHAPES, 0, dtype=jnp.bfloat16))
    state, new, updates = jax.eval_shape(step, params, params)
    chex.assert_trees_all_equal_structs(state, new)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    chex.assert_trees_all_equal_shapes(updates, params)


def test_unknown_names_are_rejected():
    with pytest.raises(ValueError, match="unknown moments='fp8': choose from float32, bfloat16, int8"):
        low_precision(adam(0.1), moments="fp8")
    with pytest.raises(ValueError, match="unknown rounding='up': choose from nearest, stochastic, master"):
        low_precision(adam(0.1), rounding="up")


def test_wraps_optax_and_goes_into_its_apply_updates():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    tx = low_precision(optax.adam(1e-3), moments="int8")
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(params, tx.init(params), params)
        assert optax.apply_updates(params, updates)["w"].dtype == jnp.bfloat16


QUICK = ("adam", "amsgrad", "lamb", "adabelief", "adafactor", "came", "laprop", "sophia", "soap", "muon")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in OPTIMIZERS]
)
def test_a_small_gradient_beside_a_large_one_makes_no_large_step(name):
    """A second moment that rounds to zero before the first moment does would divide by ``eps``."""
    case = CASES[name]
    params = {"w": jnp.ones((2, 256))}
    small = jnp.ones((2, 256)).at[:, ::2].set(1e-4)
    grads = {"w": jnp.stack([small] * 5 + [small.at[:, ::2].set(0.0)] * 5)}

    def largest(tx):
        def step(carry, grad):
            params, state, t = carry
            extra = case.extra(lambda p: jnp.float32(1.0), params, t)
            updates, state = tx.update(grad, state, params, **extra)
            return (apply_updates(params, updates), state, t + 1), jnp.max(jnp.abs(updates["w"]))

        return jnp.max(jax.lax.scan(step, (params, tx.init(params), jnp.int32(0)), grads)[1])

    exact, rounded = (largest(low_precision(case.make(), moments=m, min_size=0)) for m in ("float32", "int8"))
    assert rounded <= 4 * exact
