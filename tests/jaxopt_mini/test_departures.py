"""Bugs of Optax 0.2.8: each has a check that fails on Optax and passes here.

Every check takes the function of one library and runs on both; ``docs/optimizers/differences.md`` has a row for each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_mini as ours
from jaxopt_mini import states, tree
from tests.harness import permissive

PAGE = Path(__file__).parents[2] / "docs" / "optimizers" / "differences.md"
NARROW_STATES = (
    "adabelief adadelta adagrad adam adamax adan amsgrad lion radam rmsprop yogi".split()  # and the two below
)


def updates_of(tx, grads, params=None):
    return tx.update(grads, tx.init(grads), params)[0]


def norm(updates):
    """In float64."""
    return np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(updates)))


def zero_norm_clip(clip):
    assert np.all(np.isfinite(updates_of(clip(0.0), {"w": jnp.zeros(3)})["w"]))


def half_precision_adam(adam):
    params = {"w": jnp.ones(2, jnp.float16)}
    assert np.all(np.isfinite(updates_of(adam(0.1), {"w": jnp.zeros(2, jnp.float16)}, params)["w"]))


def low_precision_norm(clip):
    grads = {f"leaf_{i}": jnp.ones((), jnp.bfloat16) for i in range(1000)}
    assert norm(updates_of(clip(1.0), grads)) <= 1.01


def overflowing_norm(clip):
    assert norm(updates_of(clip(1.0), {"w": jnp.full(4, 300.0, jnp.float16)})) > 0.99


def bfloat16_hyperparameters(library):
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = library.inject_hyperparams(library.adamw)(learning_rate=1e-3)
    updates, state = tx.update(params, tx.init(params), params)
    assert np.float32(state.hyperparams["b2"]) == np.float32(0.999)
    assert np.all(np.isfinite(np.float32(updates["w"])))


def state_dtypes(tx):
    """Float32 gradients of bfloat16 parameters."""
    params, grads = ({"w": jnp.ones((2, 2), dtype)} for dtype in (jnp.bfloat16, jnp.float32))
    state = tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.update(grads, state, params)[1], state)


def bias_correction_near_one(adam):
    """The first update of Adam is the learning rate, whatever b2."""
    for b2 in (0.999, 0.9999, 0.99999, 0.999999):
        update = updates_of(adam(1.0, b2=b2), {"w": jnp.ones(1)}, {"w": jnp.ones(1)})["w"]
        np.testing.assert_allclose(update, -1.0, rtol=2e-6)


def bfloat16_sums(schedule_free):
    """The sum of the weights, here of 1000 ones, doesn't stall."""
    tx, params = schedule_free(ours.sgd(1.0), 1.0), {"w": jnp.zeros(1, jnp.bfloat16)}
    step = lambda state, _: (tx.update(params, state, params)[1], None)
    state, _ = jax.lax.scan(step, tx.init(params), length=1000)
    np.testing.assert_allclose(np.float32(state.weight_sum), 1000.0, rtol=1e-3)


def scanned_monitor(monitor):
    def step(state, grad):
        return tx.update(grad, state)[::-1]

    tx = monitor(tree.norm)
    state, _ = jax.lax.scan(step, tx.init({"w": jnp.zeros(2)}), {"w": jnp.array([[3.0, 4.0], [6.0, 8.0]])})
    assert 10.0 in jax.tree.leaves(state)


def warm_up_of_no_length(schedule):
    np.testing.assert_allclose([schedule(t) for t in (0, 1, 100)], 0.1)


def muon_presets(muon):
    """The presets of the docstring, and fewer steps than a preset has coefficients."""
    params = {"w": jnp.eye(2)}
    for keywords in ({"ns_coeffs": "muon"}, {"ns_coeffs": "dion", "ns_steps": 3}):
        assert np.all(np.isfinite(updates_of(muon(0.1, **keywords), params, params)["w"]))


def jitted_injection(library):
    jax.jit(library.inject_hyperparams(library.adafactor)(learning_rate=0.1).init)({"w": jnp.ones((2, 2))})


def ambiguous_lookup(get):
    """The error lists the paths, and each path is unambiguous."""
    state = optax.adam(lambda count: 0.1).init({"w": jnp.zeros(2)})
    with pytest.raises(KeyError) as error:
        get(state, "count")
    names = str(error.value).strip('"').partition("choose from: ")[2].split(", ")
    assert [get(state, name) for name in names] == [0, 0]


def empty_chain(chain):
    np.testing.assert_array_equal(updates_of(chain(), {"w": jnp.ones(2)})["w"], jnp.ones(2))


def adan_weights(adan):
    """The authors' update with b2 as the weight of the difference, in NumPy."""
    b1, b2, b3, params = 0.98, 0.92, 0.99, {"w": jnp.zeros(())}
    tx = adan(0.1, eps_root=0.0)
    state, m, v, n, last = tx.init(params), 0.0, 0.0, 0.0, 1.0
    for t, g in enumerate((1.0, 2.0, -0.5), start=1):
        d, last = g - last, g
        m, v, n = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * d, b3 * n + (1 - b3) * (g + b2 * d) ** 2
        step = (m / (1 - b1**t) + b2 * v / (1 - b2**t)) / (np.sqrt(n / (1 - b3**t)) + 1e-8)
        updates, state = tx.update({"w": jnp.float32(g)}, state, params)
        np.testing.assert_allclose(updates["w"], -0.1 * step, rtol=1e-4)


def rprop_steps(rprop):
    """Each step follows its own sign: 0.1, then 1.2 times that, none at a sign change, then half."""
    tx, params = rprop(0.1), {"w": jnp.zeros(())}
    state, steps = tx.init(params), []
    for g in (1.0, 1.0, -1.0, -1.0):
        updates, state = tx.update({"w": jnp.float32(g)}, state, params)
        steps.append(updates["w"])
    np.testing.assert_allclose(steps, [-0.1, -0.12, 0.0, 0.06], rtol=1e-5)


def giving_up(skip):
    """Two consecutive errors are skipped, the third step is applied, and the count restarts."""
    tx, params = skip(optax.identity(), 2), {"w": jnp.zeros(())}
    state, taken = tx.init(params), []
    for _ in range(6):
        updates, state = tx.update({"w": jnp.float32(jnp.nan)}, state, params)
        taken.append(bool(jnp.isnan(updates["w"])))
    assert taken == [False, False, True] * 2


def square(params):
    return jnp.sum(jnp.square(params["w"]))


def sharpness_of_nothing(step):
    tx, extra_args = step
    params = {"w": jnp.zeros(2)}
    updates, _ = tx.update(params, tx.init(params), params, **extra_args)
    np.testing.assert_array_equal(updates["w"], jnp.zeros(2))


class Departure(NamedTuple):
    """A check and the function of each library that it runs on.

    Attributes:
      check: raises if the function it is called with is wrong.
      ours: the function here.
      theirs: the function in Optax.
      error: the exception that the check raises on Optax.
    """

    check: Callable[[Any], None]
    ours: Any
    theirs: Any
    error: type[Exception] = AssertionError


OUR_SAM = ours.sam(ours.sgd(0.1)), {"loss_fn": square}
THEIR_SAM = (
    optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True),
    {"grad_fn": lambda params, _: jax.grad(square)(params)},
)

DEPARTURES = {
    "zero-norm clip": Departure(zero_norm_clip, ours.clip_by_norm, optax.clip_by_global_norm),
    "float16 Adam": Departure(half_precision_adam, ours.adam, optax.adam),
    "low-precision norms": Departure(low_precision_norm, ours.clip_by_norm, optax.clip_by_global_norm),
    "float16 overflow": Departure(overflowing_norm, ours.clip_by_norm, optax.clip_by_global_norm),
    "bfloat16 hyperparameters": Departure(bfloat16_hyperparameters, ours, optax),
    **{
        f"state dtypes, {name}": Departure(state_dtypes, ours.OPTIMIZERS[name](0.1), getattr(optax, name)(0.1))
        for name in NARROW_STATES
    },
    "state dtypes, sgd": Departure(state_dtypes, ours.sgd(0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    "state dtypes, novograd": Departure(state_dtypes, ours.OPTIMIZERS["novograd"](0.1), optax.novograd(0.1), TypeError),
    "bias correction": Departure(bias_correction_near_one, ours.adam, optax.adam),
    "bfloat16 sums": Departure(bfloat16_sums, ours.schedule_free, optax.contrib.schedule_free),
    "monitor under scan": Departure(
        scanned_monitor,
        lambda measure: ours.snapshot("measured", measure),
        lambda measure: optax.monitor({"measured": measure}),
        TypeError,
    ),
    "zero-length warm-up": Departure(
        warm_up_of_no_length,
        ours.warmup_constant(0.1, 100, warmup=0),
        optax.warmup_constant_schedule(0.0, 0.1, 0),
    ),
    "Muon's presets": Departure(muon_presets, ours.muon, optax.contrib.muon, ValueError),
    "jitted injection": Departure(jitted_injection, ours, optax, jax.errors.TracerBoolConversionError),
    "ambiguous lookup": Departure(ambiguous_lookup, states.get, optax.tree.get),
    "empty chain": Departure(empty_chain, ours.chain, optax.chain, ValueError),
    "Adan's differences": Departure(adan_weights, ours.OPTIMIZERS["adan"], optax.adan),
    "Rprop's steps": Departure(rprop_steps, ours.OPTIMIZERS["rprop"], optax.rprop),
    "giving up": Departure(
        giving_up, lambda inner, n: ours.skip_nonfinite(inner, max_in_a_row=n), optax.apply_if_finite
    ),
    "SAM without a gradient": Departure(sharpness_of_nothing, OUR_SAM, THEIR_SAM),
}
each = pytest.mark.parametrize("departure", DEPARTURES.values(), ids=DEPARTURES)


@each
def test_holds_here(departure):
    departure.check(departure.ours)


@pytest.mark.skipif(optax.__version__ != "0.2.8", reason="the page speaks of Optax 0.2.8")
@each
def test_does_not_hold_in_optax(departure):
    with permissive(), pytest.raises(departure.error):
        departure.check(departure.theirs)


def test_the_page_has_a_row_for_each():
    rows = [line.split("|")[1].strip() for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert rows[2:] == list(dict.fromkeys(name.partition(",")[0] for name in DEPARTURES))
