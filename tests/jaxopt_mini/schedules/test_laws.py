"""Properties of every schedule."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import SCHEDULES
from jaxopt_mini.schedules.shapes import SHAPES

TOTAL = 40
COUNTS = jnp.arange(TOTAL)
each = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def keywords(schedule):
    parameters = inspect.signature(schedule).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@each
def test_takes_peak_and_steps_and_the_rest_by_keyword_with_a_default(schedule):
    first, second, *rest = inspect.signature(schedule).parameters.values()
    assert (first.name, second.name) == ("peak", "total_steps")
    assert len(rest) == len(keywords(schedule))
    assert not any(p.default is p.empty for p in rest)


@each
def test_is_float32_of_the_shape_of_the_count(schedule):
    rate = schedule(0.1, TOTAL)
    for count in (3, jnp.int32(3), jnp.float32(3), jnp.arange(5)):
        got = jax.eval_shape(rate, count)
        assert (got.dtype, got.shape) == (jnp.float32, jnp.shape(count))


@each
def test_jitted_mapped_and_plain_agree_and_trace_once(schedule):
    rate = schedule(0.1, TOTAL)
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(rate, n=1))
    counts = jnp.array([0, 1, 7, 20, 39, 40, 1000])
    mapped = jax.jit(jax.vmap(rate))(counts)
    np.testing.assert_allclose([compiled(t) for t in counts], mapped, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(rate(counts), mapped, rtol=1e-6, atol=1e-8)


@each
def test_peak_may_be_traced_and_scales_the_curve(schedule):
    curves = jax.jit(jax.vmap(lambda peak: schedule(peak, TOTAL)(COUNTS)))(jnp.array([1.0, 0.1]))
    np.testing.assert_allclose(curves[1], 0.1 * curves[0], rtol=1e-6)
    np.testing.assert_allclose(curves[0], jax.jit(schedule(1.0, TOTAL))(COUNTS), rtol=1e-5, atol=1e-6)


@each
def test_stays_between_zero_and_the_peak_and_reaches_it(schedule):
    curve = jax.jit(schedule(0.5, TOTAL))(jnp.arange(2 * TOTAL))
    assert jnp.all((curve >= 0) & (curve <= 0.5 * (1 + 1e-6)))
    assert jnp.max(curve) == pytest.approx(0.5)


@each
def test_the_first_step_is_never_wasted(schedule):
    for total_steps in (1, 2, 3, TOTAL):
        assert jax.jit(schedule(0.5, total_steps))(0) > 0


@pytest.mark.parametrize(
    "schedule", [f for f in SCHEDULES.values() if "warmup" in keywords(f)], ids=lambda f: f.__name__
)
class TestWarmup:
    def test_none_begins_at_the_peak(self, schedule):
        assert schedule(0.5, TOTAL, warmup=0)(0) == pytest.approx(0.5)

    def test_fraction_of_the_run_is_the_steps(self, schedule):
        by_part, by_steps = (jax.jit(schedule(0.5, TOTAL, warmup=w))(COUNTS) for w in (0.29, 11))
        np.testing.assert_array_equal(by_part, by_steps)

    def test_rises_all_the_way_to_the_peak(self, schedule):
        curve = jax.jit(schedule(0.5, TOTAL, warmup=10))(COUNTS[:11])
        top = int(jnp.argmax(curve))
        assert top in (9, 10)  # noam counts from 1
        assert jnp.all(jnp.diff(curve[: top + 1]) > 0)
        assert curve[top] == pytest.approx(0.5)

    def test_longer_than_the_run_or_negative_is_rejected(self, schedule):
        with pytest.raises(ValueError, match="warmup=41 is longer than the run of 40 steps"):
            schedule(0.5, TOTAL, warmup=41)
        with pytest.raises(ValueError, match="warmup=-1 is negative"):
            schedule(0.5, TOTAL, warmup=-1)

    def test_may_take_the_whole_run(self, schedule):
        rest = {phase: 0 for phase in ("cooldown", "plateau", "fast") if phase in keywords(schedule)}
        curve = jax.jit(schedule(0.5, TOTAL, warmup=TOTAL, **rest))(COUNTS)
        assert jnp.all(jnp.diff(curve) > 0)
        assert curve[-1] > 0.48


@pytest.mark.parametrize(
    "schedule", [f for f in SCHEDULES.values() if "floor" in keywords(f)], ids=lambda f: f.__name__
)
class TestFloor:
    def test_is_reached_at_the_end_and_kept(self, schedule):
        last = jax.jit(schedule(0.5, TOTAL, floor=0.25))(jnp.array([TOTAL, TOTAL + 1, 10 * TOTAL]))
        np.testing.assert_allclose(last, 0.125, rtol=1e-5)

    def test_may_be_traced(self, schedule):
        curve = jax.jit(lambda floor: schedule(0.5, TOTAL, floor=floor)(COUNTS))(0.25)
        expected = jax.jit(schedule(0.5, TOTAL, floor=0.25))(COUNTS)
        np.testing.assert_allclose(curve, expected, rtol=1e-5)

    @pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
    def test_out_of_range_is_rejected(self, schedule, floor):
        with pytest.raises(ValueError, match=rf"floor={floor} is out of range"):
            schedule(0.5, TOTAL, floor=floor)


@each
def test_bad_peaks_and_runs_are_rejected(schedule):
    with pytest.raises(ValueError, match=r"peak=-0.1 is out of range: give a number >= 0"):
        schedule(-0.1, TOTAL)
    with pytest.raises(ValueError, match="total_steps=0 is out of range: give at least 1 step"):
        schedule(0.1, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_falls_from_one_to_the_floor(shape):
    curve = SHAPES[shape](jnp.linspace(1, 0, 50), 0.1)
    assert curve[0] == pytest.approx(1)
    assert curve[-1] == pytest.approx(0.1)
    assert jnp.all(jnp.diff(curve) < 0)
