"""The search of a learning rate, on losses that are known."""

import math

import pytest

from minigpt_flax.compare import rate_search
from minigpt_flax.compare.rate_search import MOST_SHORT, SHORT, bracket, lengths, open_end, search


def paid(loss, start=1.0, steps=800):
    """The selected rate, and the lengths of the runs that the search took."""
    taken = []

    def score(rates, length):
        taken.extend([length] * len(rates))
        return [loss(math.log10(rate), length / steps) for rate in rates]

    return search(start, steps, score), taken


@pytest.mark.parametrize("best", [-1.6, -1.0, -0.3, 0.0, 0.2, 0.7, 1.4])
def test_the_optimum_is_found_and_the_grid_extends_to_it(best):
    found, taken = paid(lambda x, length: min(1.0, (x - best) ** 2))  # at most that of an untrained model
    assert math.log10(found) == pytest.approx(best, abs=0.35)
    assert sum(taken) <= sum(lengths(800)) and len(taken) <= len(lengths(800))
    assert taken.count(400) == 3 and (len(taken) > 6 or abs(best) <= 0.7)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, 0.3])
def test_the_shift_of_the_optimum_is_extrapolated(shift):
    found, _ = paid(lambda x, length: (x - 0.25 + shift * math.log2(length)) ** 2)
    assert math.log10(found) == pytest.approx(0.25, abs=0.2)


def test_high_rates_that_differ_by_chance_do_not_win():
    """Below 1, the loss of a run falls with its rate times its steps; above, it is noise."""
    noise = {0.5: 0.0, 1.0: -0.05, 1.5: 0.03, 2.0: -0.04}
    loss = lambda x, length: 3.3 + max(0.0, -x) + (min(noise.items(), key=lambda item: abs(item[0] - x))[1]) * (x > 0.2)
    assert 0.3 < paid(loss)[0] <= 1.3


def test_a_search_that_ends_at_an_end_says_so():
    assert len(bracket(1.0, lambda rates: [-rate for rate in rates])) == MOST_SHORT
    assert open_end(bracket(1.0, lambda rates: [-rate for rate in rates])) == "highest"
    assert open_end(bracket(1.0, lambda rates: [rate for rate in rates])) == "lowest"
    assert open_end(bracket(1.0, lambda rates: [math.inf] * len(rates))) == "lowest"
    assert open_end(bracket(1.0, lambda rates: [(math.log10(rate) - 1.5) ** 2 for rate in rates])) == ""
    assert open_end({}) == ""


@pytest.mark.parametrize("highest", [-0.2, 0.0, 0.4])
def test_diverged_runs_are_the_worst(highest):
    found, _ = paid(lambda x, length: math.inf if x > highest else -x)
    assert math.log10(found) <= highest
    assert paid(lambda x, length: math.inf)[0] < 1.0


def test_every_run_has_a_step():
    assert min(lengths(rate_search.SHORTEST)) == 2 and min(lengths(SHORT)) == 1
