"""The committed default rates, and the search that finds them."""

import math

import pytest

from benchmarks.defaults import PLAIN
from benchmarks.rates import STARTS, climb
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.train.config import rates


def test_every_rate_is_an_optimizers():
    """An optimizer that the sweep hasn't seen yet gets the preset's rate, so that adding one stays three edits."""
    assert rates().keys() <= OPTIMIZERS.keys()


def test_rates_are_positive_and_in_order():
    assert all(math.isfinite(rate) and rate > 0 for rate in rates().values())
    assert list(rates()) == sorted(rates())


def test_data_by_name_names_optimizers():
    assert STARTS.keys() | PLAIN <= OPTIMIZERS.keys()


@pytest.mark.parametrize("start", [1e-3, 0.1, 1.0])
def test_search_finds_the_best_rate_beside_worse_ones(start):
    rate, losses = climb(lambda rate: abs(math.log10(rate / 0.03)), start)
    assert rate == 0.03
    assert {0.01, 0.03, 0.1} <= losses.keys()


def test_search_turns_back_where_training_breaks():
    rate, _ = climb(lambda rate: math.inf if rate > 0.05 else -rate, 1.0)
    assert rate == 0.03
