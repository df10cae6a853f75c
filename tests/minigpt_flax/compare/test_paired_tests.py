"""The paired tests against SciPy, textbook numbers and simulated noise."""

import math

import numpy as np
import pytest
from scipy import stats

from minigpt_flax.compare.paired_tests import (
    LEVEL,
    PairedTest,
    compare_pair,
    holm,
    p_value,
    proportion_interval,
    resolved,
    seeds_needed,
    signed_rank,
    t_interval,
)

NOISE = {
    "normal": lambda rng, shape: rng.normal(0, 1, shape),
    "t3": lambda rng, shape: rng.standard_t(3, shape),
    "log-normal": lambda rng, shape: rng.lognormal(0, 1, shape),
    "jumps": lambda rng, shape: rng.normal(0, 0.05, shape) + (rng.random(shape) < 0.25),
    "two values": lambda rng, shape: 1.0 * (rng.random(shape) < 0.5),
    "diverging": lambda rng, shape: np.where(rng.random(shape) < 0.3, np.inf, rng.normal(0, 1, shape)),
}


def paired(a, b, resolution=0.0):
    return compare_pair("a", dict(enumerate(a)), "b", dict(enumerate(b)), resolution)


def test_p_value_and_interval_match_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30):
        a, b = rng.normal(0, 1, n), rng.normal(0.5, 1, n)
        result = stats.ttest_rel(a, b)
        assert p_value(list(a - b)) == pytest.approx(result.pvalue, rel=1e-9)
        assert t_interval(list(a - b)) == pytest.approx(tuple(result.confidence_interval()), rel=1e-9)


@pytest.mark.parametrize("n", [3, 6, 10, 13, 300])
def test_the_signed_rank_test_matches_scipy(n):
    values = np.random.default_rng(n).normal(0.2, 1, n)
    expected = stats.wilcoxon(values, method="exact" if n < 100 else "approx")
    balance, p = signed_rank(list(values))
    assert p == pytest.approx(expected.pvalue, rel=1e-6)
    assert min(n * (n + 1) / 2 + balance, n * (n + 1) / 2 - balance) / 2 == pytest.approx(expected.statistic)


def test_with_ties_the_signed_rank_test_enumerates_all_signs():
    values = np.array([0.5, -0.5, 1.0, 1.0, math.inf, 0.0])
    ranks = stats.rankdata(np.abs(values[:5]))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1)
    observed = abs((np.sign(values[:5]) * ranks).sum())
    assert signed_rank(list(values))[1] == pytest.approx(np.mean(np.abs(ranks @ signs) >= observed - 1e-9))


def test_proportion_interval_matches_scipy():
    for count, total in ((0, 3), (1, 3), (3, 3), (4, 20)):
        expected = stats.binomtest(count, total).proportion_ci()
        assert proportion_interval(count, total) == pytest.approx((expected.low, expected.high))


def test_equal_differences_are_no_certainty():
    assert p_value([0.25, 0.25, 0.25]) is None and p_value([0.0, 0.0, 0.0]) == 1.0
    assert paired([2.0] * 2, [2.5] * 2).p == 0.5 and paired([2.0] * 6, [2.5] * 6).p == 2 / 2**6


def test_a_verdict_takes_as_many_seeds_as_are_said():
    for tests in (1, 2, 3, 11, 66):
        n = seeds_needed(tests)
        smallest = lambda n: paired(np.zeros(n), 1 + 0.001 * np.arange(n)).p
        assert tests * smallest(n) <= LEVEL < tests * smallest(n - 1)


def test_a_diverged_run_ranks_worst():
    steady = 2.5 + 0.01 * np.arange(10)
    survivor = np.where(np.arange(10) < 3, np.inf, 1.5)
    assert not holm([paired(steady, survivor)])[0].significant
    assert paired(steady, np.full(10, np.inf)).p == 2 / 2**10 and paired(steady, np.full(10, np.inf)).better == "a"
    assert paired(np.full(10, np.inf), np.full(10, np.inf)).p == 1
    both = paired([2.0, 2.1, np.inf], [2.2, 2.4, np.inf])  # a seed with which both diverge has no difference
    assert both.difference == pytest.approx(0.25) and both.seeds == 3 and both.p == 0.5


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [3, 6, 10])
def test_the_level_holds_for_every_noise(noise, n):
    rng, times = np.random.default_rng(0), 300
    a, b = NOISE[noise](rng, (2, times, n))
    ours = [paired(x, y).p for x, y in zip(a, b, strict=True)]
    assert np.mean(np.array(ours) <= LEVEL) <= LEVEL + 2.5 * math.sqrt(LEVEL / times)


def test_what_the_seeds_resolve_is_found_with_the_power_that_is_said():
    rng = np.random.default_rng(1)
    known = PairedTest("a", "b", 0.0, 0.1 / math.sqrt(10), 10, 1.0)
    size = resolved([known], 10)
    a, b = rng.normal(0, 0.1 / math.sqrt(2), (2, 400, 10))
    found = np.mean([paired(x, y + size).p <= LEVEL for x, y in zip(a, b, strict=True)])
    assert 0.7 < found < 0.9
    assert resolved([known], 5) is None and resolved([PairedTest("a", "b", None, None, 0, None)], 10) is None


def test_holm_on_textbook_numbers():
    # Step-down by hand: 4 x 0.01, 3 x 0.013, 2 x 0.02, 1 x 0.04, each at least as large as the previous one.
    tests = [PairedTest("a", "b", 1.0, 0.1, 3, p) for p in (0.04, 0.01, 0.02, 0.013)]
    assert [test.corrected for test in holm(tests)] == pytest.approx([0.04, 0.04, 0.04, 0.04])
    tests = [PairedTest("a", "b", 1.0, 0.1, 3, p) for p in (0.005, 0.5, None)]  # a missing p counts as 1
    assert [test.corrected for test in holm(tests)] == [0.015, 1.0, None]


def test_holm_equals_bonferroni_for_the_smallest_p_and_keeps_the_order():
    p = np.random.default_rng(1).uniform(0, 0.2, 12)
    corrected = [test.corrected for test in holm([PairedTest("a", "b", 1.0, 0.1, 3, float(x)) for x in p])]
    assert min(corrected) == pytest.approx(min(1, 12 * p.min()))
    assert np.all(np.diff(np.array(corrected)[np.argsort(p)]) >= 0)
