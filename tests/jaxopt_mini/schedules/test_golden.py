"""Recorded curves of torch, Hugging Face, nanoGPT and others, and the call that gives each."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_mini import (
    cosine,
    cosine_restarts,
    exponential,
    fast_slow,
    inverse_sqrt,
    multistep,
    one_cycle,
    polynomial,
    warmup,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)
from jaxopt_mini.schedules import constant, join, linear, step

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = json.loads((GOLDEN / "schedules.json").read_text())["schedules"]
CURVES = dict(np.load(GOLDEN / "schedules.npz"))


def _exponential(peak, n, gamma):
    return exponential(peak, n, floor=gamma**n)


def _periodic_cosine(peak, n, half_period, floor=0.0):
    """Rises again after ``half_period``, like torch's."""
    return cosine(peak, n, floor=floor, cycles=n / half_period / 2)


def _one_call_late(schedule):
    """A scheduler that is still at its first value after its first call."""
    return join([lambda count: schedule(0), schedule], [1])


def _one_cycle(n, h, **keywords):
    div, final_div = h["div_factor"], h["final_div_factor"]
    return one_cycle(
        h["max_lr"],
        n - 1,
        warmup=h["pct_start"] * n - 1,
        start=1 / div,
        floor=1 / (div * final_div),
        **keywords,
    )


def _wsd_epfl(shape):
    return lambda n, h: wsd(
        1.0,
        h["n_iterations"],
        warmup=h["n_warmup"],
        start=1 / h["init_div_factor"],
        cooldown=h["fract_decay"],
        shape=shape,
        floor=h["final_lr_factor"],
    )


def _wsd_hf(n, h):
    rise, fall = h["num_warmup_steps"], h["num_decay_steps"]
    stable_and_decay = wsd(
        h["base_lr"],
        h["num_stable_steps"] + fall,
        warmup=0,
        cooldown=fall,
        shape=h["decay_type"],
        floor=h["min_lr_ratio"],
    )
    return warmup(stable_and_decay, rise, start=h["min_lr_ratio"], shape=h["warmup_type"])


def _cosine_hf(n, h):
    rise, steps = h["num_warmup_steps"], h["num_training_steps"]
    wave = _periodic_cosine(
        h["base_lr"],
        n - rise,
        (steps - rise) / (2 * h.get("num_cycles", 0.5)),
        h.get("min_lr_rate", 0.0),
    )
    return warmup(wave, rise, start=0.0)


def _restarts_hf(n, h):
    rise = h["num_warmup_steps"]
    rest = h["num_training_steps"] - rise
    return warmup(cosine_restarts(h["base_lr"], rest, period=rest / h["num_cycles"]), rise, start=0.0)


def _polynomial_hf(n, h):
    rise, steps = h["num_warmup_steps"], h["num_training_steps"]
    floor = h["lr_end"] / h["base_lr"]
    return warmup(polynomial(h["base_lr"], steps - rise, power=h["power"], floor=floor), rise, start=0.0)


def _cooldown(n, h):
    """Linear from 1 - cooldown_frac of the run on."""
    steps = h["train_steps"]
    return wsd(h["initial_lr"], steps, warmup=0, cooldown=h["cooldown_frac"] * steps, shape="linear")


def _power_cool(n, h):
    """min(initial_lr, c (t_end - t)^power)."""
    peak, power = h["initial_lr"], h["power"]
    length = (peak / h["power_c"]) ** (1 / power)
    return wsd(peak, h["t_end"], warmup=0, cooldown=length, shape="power", power=power)


def _momentum(n, h):
    floor = h["minimum"] / h["maximum"]
    how = {"warmup": h["warmup_steps"], "start": floor, "cooldown": h["cooldown_steps"], "shape": "linear"}
    return wsd(h["maximum"], h.get("train_steps", h.get("total_steps")), floor=floor, **how)


def _stages(n, h):
    """Multipliers of stages, of which a cooldown takes ever less, in favor of 0.15."""
    total, stages = h["scheduled_iterations"], h["stages"]
    ends = np.round(np.cumsum([stage["duration"] for stage in stages]) * total).tolist()
    multipliers = [constant(stage["lr_mul"], total) for stage in stages]
    stage = join([*multipliers, constant(h["extension_lr_mul"], total)], ends)
    start = int(total * (1 - h["cooldown_frac"]))
    left = wsd(1.0, total, warmup=0, cooldown=total - start, shape="linear")
    return lambda count: left(count) * stage(count) + (1 - left(count)) * 0.15


def _muown(n, h):
    peak = h["lr_max"]
    rise = {"warmup": h.get("warmup_steps", 0), "start": h.get("lr_start", peak) / peak, "floor": h["lr_end"] / peak}
    if "T" in h:
        return warmup_cosine(peak, h["T"], **rise)
    fall = h["cooldown_steps"]
    return wsd(peak, h["cooldown_start_step"] + fall, cooldown=fall, shape="linear", **rise)


def _from_one_over_w(h, peak):
    """A warm-up that reaches the peak in its last step."""
    return {"peak": peak, "warmup": h["warmup_steps"] - 1, "start": 1 / h["warmup_steps"]}


def _one_minus_sqrt(n, h):
    """Of the whole run."""
    total = h["train_steps"]
    return wsd(**_from_one_over_w(h, h["peak"]), total_steps=total, cooldown=total - h["warmup_steps"], shape="1-sqrt")


def _one_minus_power(n, h):
    total, floor = h["train_steps"], h["floor"] / h["peak"]
    how = {"cooldown": total - h["plateau_end"], "shape": "1-power", "power": h["power"], "floor": floor}
    return wsd(h["peak"], total, warmup=h["warmup_steps"], start=floor, **how)


def _fast_slow(n, h):
    start, end = h["plateau_end"], h["fast_end"]
    how = {"plateau": start - h["warmup_steps"] + 1, "fast": end - start, "power": h["fast_power"]}
    knee = h["floor"] / h["peak"]
    return fast_slow(**_from_one_over_w(h, h["peak"]), total_steps=h["train_steps"], knee=knee, **how)


def _warm_cosine(n, h):
    """AlgoPerf's, whose first update has the peak: the scheduler sets nothing at its start."""
    peak, floor = h["lr_max"], h["lr_min"] / h["lr_max"]
    after = warmup_cosine(peak, h["T"], warmup=h["warmup_steps"], start=floor, floor=floor)
    return join([constant(peak, n), lambda count: after(count + 1)], [1])


# Name of the curve -> (its length, its recorded hyperparameters) -> our schedule.
CALLS = {
    "torch_step": lambda n, h: step(h["base_lr"], n, step_size=h["step_size"], gamma=h["gamma"]),
    "torch_multistep": lambda n, h: multistep(h["base_lr"], n, milestones=h["milestones"], gamma=h["gamma"]),
    "torch_exponential": lambda n, h: _exponential(h["base_lr"], n, h["gamma"]),
    "torch_constant": lambda n, h: join(
        [constant(h["factor"] * h["base_lr"], n), constant(h["base_lr"], n)], [h["total_iters"]]
    ),
    "torch_cosine": lambda n, h: cosine(h["base_lr"], h["T_max"]),
    "torch_cosine_min": lambda n, h: _periodic_cosine(h["base_lr"], n, h["T_max"], h["eta_min"] / h["base_lr"]),
    "torch_warm_restarts": lambda n, h: cosine_restarts(h["base_lr"], n, period=h["T_0"]),
    "torch_warm_restarts_mult2": lambda n, h: cosine_restarts(
        h["base_lr"], n, period=h["T_0"], mult=h["T_mult"], floor=h["eta_min"] / h["base_lr"]
    ),
    "torch_linear_up": lambda n, h: warmup_constant(h["base_lr"], n, warmup=h["total_iters"], start=h["start_factor"]),
    "torch_linear_down": lambda n, h: linear(h["base_lr"], h["total_iters"], floor=h["end_factor"]),
    "torch_polynomial_1": lambda n, h: polynomial(h["base_lr"], h["total_iters"], power=h["power"]),
    "torch_polynomial_2": lambda n, h: polynomial(h["base_lr"], h["total_iters"], power=h["power"]),
    "torch_onecycle_cos": _one_cycle,
    "torch_onecycle_linear": lambda n, h: _one_cycle(n, h, shape="linear"),
    "torch_onecycle_three_phase": lambda n, h: _one_cycle(n, h, three_phase=True),
    "torch_warmup_cosine": lambda n, h: warmup_cosine(h["base_lr"], 100, warmup=10, start=0.1, floor=0.01),
    "torch_chained": lambda n, h: join(
        [_exponential(h["base_lr"] * 0.1, 15, 0.98), _exponential(h["base_lr"] * 0.98**15, n - 15, 0.98)], [15]
    ),
    "seed_step": lambda n, h: _one_call_late(step(h["base_lr"], n, step_size=h["step_size"], gamma=h["gamma"])),
    "seed_exponential": lambda n, h: _exponential(h["base_lr"], n, h["gamma"]),
    "seed_cosine": lambda n, h: _one_call_late(
        _periodic_cosine(h["base_lr"], n, h["T_max"], h["eta_min"] / h["base_lr"])
    ),
    # base_lr before the first call, then (t + 1) / w as the default start gives it with w - 1 steps.
    "seed_warmup": lambda n, h: join(
        [constant(h["base_lr"], n), warmup_constant(h["target_lr"], n, warmup=h["warmup_steps"] - 1)], [1]
    ),
    "nanogpt_get_lr": lambda n, h: warmup_cosine(
        h["learning_rate"],
        h["lr_decay_iters"],
        warmup=h["warmup_iters"],
        floor=h["min_lr"] / h["learning_rate"],
    ),
    "epfl_wsd_linear": _wsd_epfl("linear"),
    "epfl_wsd_exp": _wsd_epfl("exponential"),
    "epfl_wsd_cosine": _wsd_epfl("cosine"),
    "epfl_wsd_miror_cosine": _wsd_epfl("mirror-cosine"),
    "epfl_wsd_square": _wsd_epfl("square"),
    "epfl_wsd_sqrt": _wsd_epfl("1-sqrt"),
    "epfl_wsd_sqrt_to_zero": _wsd_epfl("1-sqrt"),
    "epfl_cos_inf": lambda n, h: warmup_cosine(
        1.0,
        h["n_iterations"] - h["n_inf"],
        warmup=h["n_warmup"],
        start=1 / h["div_factor"],
        floor=h["final_div_factor"],
    ),
    "hf_constant_warmup": lambda n, h: warmup_constant(h["base_lr"], n, warmup=h["num_warmup_steps"], start=0.0),
    "hf_linear": lambda n, h: warmup_linear(
        h["base_lr"], h["num_training_steps"], warmup=h["num_warmup_steps"], start=0.0
    ),
    "hf_cosine": _cosine_hf,
    "hf_cosine_cycles": _cosine_hf,
    "hf_cosine_min_lr": _cosine_hf,
    "hf_cosine_hard_restarts": _restarts_hf,
    "hf_polynomial": _polynomial_hf,
    "hf_polynomial_power": _polynomial_hf,
    "hf_inverse_sqrt": lambda n, h: inverse_sqrt(h["base_lr"], n, warmup=h["num_warmup_steps"], start=0.0),
    "hf_inverse_sqrt_timescale": lambda n, h: inverse_sqrt(
        h["base_lr"], n, warmup=h["num_warmup_steps"], timescale=h["timescale"], start=0.0
    ),
    "hf_wsd_linear_linear": _wsd_hf,
    "hf_wsd_linear_cosine": _wsd_hf,
    "hf_wsd_cosine_1-sqrt": _wsd_hf,
    "hf_wsd_1-sqrt_cosine": _wsd_hf,
    "track3_trapezoid": _cooldown,
    "track3_split_cooldown_aux": _cooldown,
    "track3_split_cooldown_matrix": _cooldown,
    "track3_linear_whole": _cooldown,
    "track3_adamh": lambda n, h: join(  # the decay runs from step 0, below the warm-up
        [
            lambda count: h["initial_lr"] * count / h["h_warmup_steps"],
            lambda count: _cooldown(n, h)(count + h["h_warmup_steps"]),
        ],
        [h["h_warmup_steps"]],
    ),
    "track3_powercool": _power_cool,
    "track3_powercool_coast": _power_cool,
    "track3_power_floor": lambda n, h: polynomial(
        h["initial_lr"], h["schedule_steps"], power=h["lr_power"], floor=h["lr_floor"]
    ),
    "track3_power_cooldown": lambda n, h: wsd(
        h["initial_lr"],
        h["schedule_steps"],
        warmup=0,
        cooldown=h["cooldown_frac"] * h["schedule_steps"],
        shape="power",
        power=h["power"],
    ),
    "track3_momentum": _momentum,
    "track1_lr": _stages,
    "track1_momentum": _momentum,
    "nanochat_lr": lambda n, h: wsd(
        1.0,
        h["num_iterations"],
        warmup=h["warmup_steps"] - 1,
        start=1 / h["warmup_steps"],
        cooldown=round(h["warmdown_ratio"] * h["num_iterations"]),
        shape="linear",
        floor=h["final_lr_frac"],
    ),
    "nanochat_weight_decay": lambda n, h: cosine(h["weight_decay"], h["num_iterations"]),
    "nanochat_momentum": lambda n, h: wsd(  # its numbers are constants in the code
        0.97,
        h["num_iterations"],
        warmup=400,
        start=0.85 / 0.97,
        cooldown=round(h["warmdown_ratio"] * h["num_iterations"]),
        shape="linear",
        floor=0.9 / 0.97,
    ),
    "muown_wsd": _muown,
    "muown_warmup_cosine": _muown,
    "muown_linear_cooldown": _muown,
    "algoperf_warm_cosine": _warm_cosine,
    "pr351_fast_slow_decay": _fast_slow,
    "pr343_one_minus_sqrt": _one_minus_sqrt,
    "pr345_one_minus_power": _one_minus_power,
}


def test_every_recorded_curve_has_a_call():
    assert CALLS.keys() == CURVES.keys() == RECORDS.keys()


def recorded_and_ours(name):
    """The recorded curve and ours, (steps,) each."""
    recorded = CURVES[name]
    schedule = CALLS[name](len(recorded), RECORDS[name]["hyperparameters"])
    return recorded, np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(len(recorded))))


@pytest.mark.parametrize("name", CALLS)
def test_curve(name):
    expected, got = recorded_and_ours(name)
    # Differences of float32 numbers near the peak leave 6e-8 of the peak where the curve is near 0.
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-7 * expected.max())
