"""Mixtures: exact shares, pure in (seed, step), and each source in epochs of its own."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from minigpt_flax.data import Batches, Mixture, by_size, mix, read_weights
from minigpt_flax.errors import UserError

few = settings(deadline=None, max_examples=40)
shares = st.lists(st.integers(1, 20), min_size=2, max_size=4).map(lambda n: [Fraction(i, sum(n)) for i in n])


def made(weights, batch_size=5, context=4, seed=3):
    """Sources that differ in their tokens."""
    tokens = [np.arange(1000 * i, 1000 * i + 90 + 7 * i) for i in range(len(weights))]
    return mix(tokens, weights, batch_size, context, seed)


def rows(batches, steps):
    return np.concatenate([batches(step) for step in range(steps)])


@given(shares)
@few
def test_shares_are_exact_over_a_period_and_close_before(weights):
    period = np.lcm.reduce([weight.denominator for weight in weights])
    owners = rows(made(weights, batch_size=int(period)), 3)[:, 0] // 1000
    for i, weight in enumerate(weights):
        counts = np.cumsum(owners == i)
        assert (counts[period - 1 :: period] == np.arange(1, 4) * weight * period).all()
        assert np.abs(counts - float(weight) * np.arange(1, len(owners) + 1)).max() <= len(weights) / 2 + 0.5


@given(shares, st.permutations(range(12)), st.integers(0, 4))
@few
def test_pure_in_the_step_and_by_rows(weights, order, start):
    walked = [made(weights)(step) for step in range(12)]
    jumping = made(weights)
    for step in order:
        np.testing.assert_array_equal(jumping(step, slice(start, None)), walked[step][start:])


def test_each_source_is_visited_as_if_alone():
    weights = [Fraction(2, 3), Fraction(1, 3)]
    found = rows(made(weights), 60)
    alone = Batches(np.arange(90), 5, 4, seed=3)
    own = found[found[:, 0] < 1000]
    np.testing.assert_array_equal(own, rows(alone, 40))
    assert type(made([Fraction(1)])) is Batches  # one source is no mixture
    other = found[found[:, 0] >= 1000][: Batches(np.arange(97), 5, 4, 0).windows_per_epoch]
    assert len(np.unique(other[:, 0])) == len(other)  # without replacement


def test_weights():
    assert read_weights("0.7,0.3", ["a", "b"]) == (Fraction(7, 10), Fraction(3, 10))
    assert read_weights("1/3, 2/3", ["a", "b"]) == (Fraction(1, 3), Fraction(2, 3))
    assert by_size([1, 10**9]) == (Fraction(1, 10001), Fraction(10000, 10001))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.7,x", "'0.7,x' is not a list of shares"),
        ("", "is not a list of shares"),
        ("1/0,1", "is not a list of shares"),
        ("1", "has 1 share, but --data names 2 sources: a, b"),
        ("0.5,0.25,0.25", "has 3 shares, but --data names 2 sources"),
        ("1,0", "a share must be above 0"),
        ("0.7,0.4", "sum to 1.1, not to 1; normalized: 0.6364,0.3636"),
    ],
)
def test_bad_weights(text, message):
    with pytest.raises(UserError, match=message) as error:
        read_weights(text, ["a", "b"])
    assert "\n" not in str(error.value)


def test_a_period_is_bounded():
    weights = [Fraction(1, 99991), Fraction(99990, 99991)]
    batches = made(weights)
    assert isinstance(batches, Mixture) and len(batches._order) <= 10_001
    assert (batches._counts >= 1).all()
