"""Equivalent schedules of Optax, and intended differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_mini import (
    cosine,
    exponential,
    inverse_sqrt,
    multistep,
    noam,
    one_cycle,
    polynomial,
    warmup,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)
from jaxopt_mini.schedules import constant, join, linear, step
from tests.harness import permissive

PAIRS = {
    "constant_schedule": (optax.constant_schedule(0.1), constant(0.1, 100)),
    "linear_schedule": (optax.linear_schedule(0.1, 0.02, 100), linear(0.1, 100, floor=0.2)),
    "polynomial_schedule": (
        optax.polynomial_schedule(0.1, 0.02, 3, 100),
        polynomial(0.1, 100, power=3, floor=0.2),
    ),
    "exponential_decay": (optax.exponential_decay(0.1, 100, 0.02, end_value=0.002), exponential(0.1, 100, floor=0.02)),
    "exponential_decay, staircase": (
        optax.exponential_decay(0.1, 20, 0.5, staircase=True),
        step(0.1, 120, step_size=20, gamma=0.5),
    ),
    "piecewise_constant_schedule": (
        optax.piecewise_constant_schedule(0.1, {30: 0.5, 70: 0.5}),
        multistep(0.1, 100, milestones=(30, 70), gamma=0.5),
    ),
    "cosine_decay_schedule": (optax.cosine_decay_schedule(0.1, 100, 0.2), cosine(0.1, 100, floor=0.2)),
    "cosine_decay_schedule, exponent": (
        optax.cosine_decay_schedule(0.1, 100, 0.2, exponent=1.5),
        cosine(0.1, 100, floor=0.2, exponent=1.5),
    ),
    "warmup_cosine_decay_schedule, exponent": (
        optax.warmup_cosine_decay_schedule(0.01, 0.1, 20, 100, 0.02, exponent=2.0),
        warmup_cosine(0.1, 100, warmup=20, start=0.1, floor=0.2, exponent=2.0),
    ),
    "warmup_constant_schedule": (
        optax.warmup_constant_schedule(0.01, 0.1, 20),
        warmup_constant(0.1, 100, warmup=20, start=0.1),
    ),
    "linear warm-up and decay": (
        optax.join_schedules([optax.linear_schedule(0.0, 0.1, 20), optax.linear_schedule(0.1, 0.0, 80)], [20]),
        warmup_linear(0.1, 100, warmup=20, start=0.0),
    ),
    "warmup_cosine_decay_schedule": (
        optax.warmup_cosine_decay_schedule(0.01, 0.1, 20, 100, 0.02),
        warmup_cosine(0.1, 100, warmup=20, start=0.1, floor=0.2),
    ),
    "warmup_exponential_decay_schedule": (
        optax.warmup_exponential_decay_schedule(0.01, 0.1, 20, 80, 0.02, end_value=0.002),
        warmup(exponential(0.1, 80, floor=0.02), 20, start=0.1),
    ),
    "sgdr_schedule": (
        optax.sgdr_schedule([{"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 50}] * 2),
        join([warmup_cosine(0.1, 50, warmup=10, start=0.0, floor=0.0)] * 2, [50]),
    ),
    "cosine_onecycle_schedule": (
        optax.cosine_onecycle_schedule(100, 0.1, 0.3, 25.0, 1e4),
        one_cycle(0.1, 100),
    ),
    "linear_onecycle_schedule": (
        optax.linear_onecycle_schedule(100, 0.1, 0.3, 0.6, 25.0, 1e4),
        one_cycle(0.1, 100, shape="linear", three_phase=True),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_optax(name):
    theirs, ours = PAIRS[name]
    counts = jnp.arange(120)
    with permissive():
        expected = jax.jit(jax.vmap(lambda t: jnp.asarray(theirs(t))))(counts)
    np.testing.assert_allclose(ours(counts), expected, rtol=2e-6, atol=1e-8)


def test_a_warm_up_of_no_steps_is_none_where_optax_stays_at_zero():
    counts = jnp.array([0, 1, 50, 99])
    for theirs in (optax.warmup_constant_schedule(0.0, 0.1, 0), optax.linear_schedule(0.0, 0.1, 0)):
        with permissive():
            np.testing.assert_array_equal([theirs(t) for t in counts], 0.0)
    np.testing.assert_allclose(warmup_constant(0.1, 100, warmup=0)(counts), 0.1, rtol=1e-6)
    np.testing.assert_allclose(warmup(constant(0.1, 100), 0, start=0.0)(counts), 0.1, rtol=1e-6)


def test_an_exponential_of_factor_zero_is_rejected_where_optax_never_decays():
    with permissive():
        assert optax.exponential_decay(0.1, 100, 0.0)(99) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="never reaches"):
        exponential(0.1, 100, floor=0.0)


def test_schedules_of_both_can_be_joined():
    joined = join([optax.constant_schedule(0.5), linear(0.1, 10)], [3])
    np.testing.assert_allclose(joined(jnp.array([0, 2, 3, 8])), [0.5, 0.5, 0.1, 0.05], rtol=1e-6)


def test_noam_is_the_transformers_formula():
    n = jnp.arange(1.0, 101.0)
    expected = 512**-0.5 * jnp.minimum(n**-0.5, n * 10**-1.5)
    got = noam((512 * 10) ** -0.5, 100, warmup=10)(jnp.arange(100))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_inverse_sqrt_without_warm_up_falls_from_the_first_step():
    got = inverse_sqrt(0.1, 100, warmup=0, timescale=4)(jnp.array([0, 12, 96]))
    np.testing.assert_allclose(got, [0.1, 0.05, 0.02], rtol=1e-6)


def test_wsd_of_a_longer_run_shares_the_stable_stretch():
    short, long = (wsd(0.1, total, warmup=10, cooldown=20) for total in (100, 200))
    counts = jnp.arange(81)
    np.testing.assert_array_equal(short(counts), long(counts))


def test_a_step_drops_exactly_at_every_multiple():
    for size in (3, 7, 10, 15, 49, 97):
        drops = np.arange(1, 100)
        schedule = jax.jit(step(1.0, 10_000, step_size=size, gamma=0.5))
        np.testing.assert_array_equal(schedule(size * drops), 0.5**drops)
        np.testing.assert_array_equal(schedule(size * drops - 1), 0.5 ** (drops - 1))
