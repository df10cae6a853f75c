"""Wrong arguments of single schedules; each error is one line with the value."""

from __future__ import annotations

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
    wsd,
)
from jaxopt_mini.schedules import constant, join, step

MISTAKES = {
    "milestones=(50, 20) don't increase: sort them": lambda: multistep(0.1, 100, milestones=(50, 20)),
    "milestones=(20, 0.1) don't increase: sort them": lambda: multistep(0.1, 100, milestones=(20, 0.1)),
    "milestones=200 is longer than the run": lambda: multistep(0.1, 100, milestones=(20, 200)),
    "step_size=-1 is negative": lambda: step(0.1, 100, step_size=-1),
    "gamma=-1 is out of range": lambda: step(0.1, 100, gamma=-1),
    "power=-1 is out of range": lambda: polynomial(0.1, 100, power=-1),
    "cycles=-1 is out of range": lambda: cosine(0.1, 100, cycles=-1),
    "mult=0.5 is out of range": lambda: cosine_restarts(0.1, 100, mult=0.5),
    "period=101 is longer than the run": lambda: cosine_restarts(0.1, 100, period=101),
    "timescale=0 is out of range": lambda: inverse_sqrt(0.1, 100, timescale=0),
    "an exponential never reaches floor=0: give": lambda: exponential(0.1, 100, floor=0),
    "an exponential never reaches floor=0.0: give": lambda: wsd(0.1, 100, shape="exponential"),
    "no power for the shape 'linear': choose from power, 1-power": lambda: wsd(0.1, 100, shape="linear", power=2.0),
    "the shape 'power' needs a power: give power=1.2, for instance": lambda: wsd(0.1, 100, shape="power"),
    "fast=60 together exceed the run of 100 steps: shorten one": lambda: fast_slow(0.1, 100, warmup=50, fast=60),
    "unknown shape 'root': choose from linear, 1-sqrt, square, cosine": lambda: wsd(0.1, 100, shape="root"),
    "warmup=60 and cooldown=0.5 together exceed the run of 100": lambda: wsd(0.1, 100, warmup=60, cooldown=0.5),
    "start=2.0 is out of range": lambda: one_cycle(0.1, 100, start=2.0),
    "three phases can't have warmup=60": lambda: one_cycle(0.1, 100, warmup=60, three_phase=True),
    "three phases can't have warmup=0.3, start=0.0": lambda: one_cycle(0.1, 100, start=0.0, three_phase=True),
    "steps=0.5 is out of range: give 0 or at least 1 step of warm-up": lambda: warmup(constant(0.1, 100), 0.5),
    "steps=-2 is out of range: give 0 or at least 1 step of warm-up": lambda: warmup(constant(0.1, 100), -2),
    "2 schedules need 1 boundaries, got 0": lambda: join([constant(0.1, 1)] * 2, []),
    "boundaries=(5, 5) don't increase: give increasing counts": lambda: join([constant(0.1, 1)] * 3, (5, 5)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake(message):
    with pytest.raises(ValueError) as error:
        MISTAKES[message]()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
