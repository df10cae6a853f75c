"""Seeds as needed: looks, their p-values, and how a comparison continues."""

import math

import numpy as np
import pytest

from minigpt_flax.compare import sequential
from minigpt_flax.compare.paired_tests import LEVEL, PairedTest, compare_pair, holm, seeds_needed
from minigpt_flax.compare.sequential import compare_at_looks, is_decided, looks, next_look, shares

SIZES = (7, 10, 14, 20)


def losses(values):
    return dict(enumerate(values))


@pytest.mark.parametrize("tests", [1, 2, 3, 11, 66])
@pytest.mark.parametrize("most", [0, 1, 8, 30, 500])
def test_every_look_can_decide_and_the_shares_are_the_whole(tests, most):
    most += seeds_needed(tests)
    sizes = looks(tests, most)
    assert list(sizes) == sorted(set(sizes)) and sizes[-1] == most
    assert math.isclose(sum(shares(sizes)), 1.0)
    assert tests * 2 * 0.5 ** sizes[0] / shares(sizes)[0] <= LEVEL
    if sizes[0] > seeds_needed(tests):
        assert tests * 2 * 0.5 ** (sizes[0] - 1) > LEVEL * (sizes[0] - 1) / most


def test_a_look_spends_its_share_of_the_level():
    rng = np.random.default_rng(0)
    ours, theirs = losses(rng.normal(0, 1, 20)), losses(rng.normal(1, 1, 20))
    for count in (7, 9, 10, 14, 20):
        found = compare_at_looks("a", dict(list(ours.items())[:count]), "b", theirs, SIZES, 0.0)
        reached = [(n, share) for n, share in zip(SIZES, shares(SIZES), strict=True) if n <= count]
        alone = [
            compare_pair("a", dict(list(ours.items())[:n]), "b", theirs, 0.0, level=LEVEL * share)
            for n, share in reached
        ]
        assert found.p == min(1.0, *(test.p / share for test, (_, share) in zip(alone, reached, strict=True)))
        assert (found.interval, found.seeds, found.better) == (alone[-1].interval, reached[-1][0], "a")


def test_a_look_for_the_other_candidate_does_not_count():
    ours = losses([1.0 + 0.01 * i for i in range(7)] + [-50.0] * 3)
    theirs = losses([0.0] * 10)
    assert compare_at_looks("a", ours, "b", theirs, SIZES, 0.0).better == "a"
    assert compare_at_looks("a", ours, "b", theirs, SIZES, 0.0).p == 1.0
    assert compare_at_looks("a", losses([1.0 + 0.01 * i for i in range(7)]), "b", theirs, SIZES, 0.0).p < LEVEL


def test_before_the_first_look_no_p_is_smaller_than_at_it():
    few = compare_at_looks("a", losses([0.0, 0.1]), "b", losses([1.0, 1.2]), SIZES, 0.0)
    assert few.seeds == 2 and few.p == 1.0
    none = compare_at_looks("a", {}, "b", losses([1.0]), SIZES, 0.0, "a has unfinished runs")
    assert none.p is None and none.seeds == 0


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({}, 10),
        ({"p": 0.01}, None),  # a verdict
        ({"interval": (-0.01, 0.009)}, None),  # narrow enough
        ({"interval": (-0.02, 0.02)}, 10),
        ({"obstacle": "b is best at the highest lr tried"}, None),  # which more seeds don't change
    ],
)
def test_seeds_are_added_until_every_test_is_decided(changes, more):
    settled = PairedTest("a", "b", 1.0, 0.1, 7, 1e-4, interval=(0.8, 1.2))
    values = {"p": 0.2, "interval": (-0.1, 0.3), "obstacle": ""} | changes
    test = PairedTest("a", "c", 0.1, 0.1, 7, values["p"], None, values["interval"], values["obstacle"])
    tests = holm([settled, test])
    assert is_decided(tests[0], 0.01) and is_decided(tests[1], 0.01) == (more is None)
    assert next_look(tests, 7, SIZES, 0.01) == more
    assert next_look(tests, 20, SIZES, 0.01) is None  # the budget


@pytest.mark.slow
def test_error_rate_of_looking_until_significant():
    """With normal noise, 5 % is 20 of 400 sets; a test at each look at the whole level finds more."""
    rng = np.random.default_rng(1)
    naive = ours = 0
    for _ in range(400):
        a, b = rng.normal(0, 1, (2, 20))
        p = [compare_pair("", losses(a[:n]), "", losses(b[:n]), 0.0).p for n in SIZES]
        naive += min(p) <= LEVEL
        ours += compare_at_looks("a", losses(a), "b", losses(b), SIZES, 0.0).p <= LEVEL
    assert ours <= 20 < 25 < naive
    assert sequential.USUAL_MOST == SIZES[-1]
