"""The statistics against SciPy and textbook numbers; what is shown of runs that broke or aren't finished."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from scipy import stats

from minigpt_flax.compare import tables
from minigpt_flax.compare.statistics import Entry, Pair, holm, judge, p_value
from minigpt_flax.errors import UserError
from tests.minigpt_flax.made_runs import run


def entry(name, finals, lr=0.001, searched=(), **config):
    """A contestant whose runs end at these losses, seed by seed; None is a run that broke."""
    return Entry(name, [run([4.0, loss], seed, lr=lr, **config) for seed, loss in enumerate(finals)], (), searched)


def test_p_is_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30):
        a, b = rng.normal(0, 1, n), rng.normal(0.5, 1, n)
        assert p_value(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_a_constant_difference_is_certain_and_none_is_none():
    assert p_value([0.25, 0.25, 0.25]) == 0.0
    assert p_value([0.0, 0.0, 0.0]) == 1.0


def test_holm_on_a_textbooks_numbers():
    # Step-down by hand: 4 x 0.01, 3 x 0.013, 2 x 0.02, 1 x 0.04, each at least as large as the one before.
    tests = [Pair("a", "b", 1.0, 0.1, 3, p) for p in (0.04, 0.01, 0.02, 0.013)]
    assert [test.corrected for test in holm(tests)] == pytest.approx([0.04, 0.04, 0.04, 0.04])
    tests = [Pair("a", "b", 1.0, 0.1, 3, p) for p in (0.005, 0.5, None)]
    assert [test.corrected for test in holm(tests)] == [0.01, 0.5, None]


def test_correction_is_never_below_bonferronis_for_the_smallest_and_keeps_order():
    p = np.random.default_rng(1).uniform(0, 0.2, 12)
    corrected = [test.corrected for test in holm([Pair("a", "b", 1.0, 0.1, 3, float(x)) for x in p])]
    assert min(corrected) == pytest.approx(min(1, 12 * p.min()))
    assert np.all(np.diff(np.array(corrected)[np.argsort(p)]) >= 0)


def test_pairing_takes_the_seeds_effect_out():
    seeds = np.random.default_rng(2).normal(0, 1, 4)  # nats: far more than the optimizers' difference
    verdict = judge([entry("worse", 3 + seeds), entry("better", 2.9 + seeds + [0, 1e-3, -1e-3, 0])])
    assert [s.name for s in verdict.standings] == ["better", "worse"]
    assert verdict.pairs[0].better == "better" and verdict.pairs[0].significant
    assert "better beats worse by 0.1000" in tables.text(verdict)


def test_noise_is_not_significant_and_said_so():
    verdict = judge([entry("one", [2.0, 2.2, 2.1]), entry("two", [2.1, 2.1, 2.05])])
    assert not verdict.pairs[0].significant
    assert "not significant" in tables.text(verdict)


def test_a_run_that_broke_is_shown_and_not_averaged_in():
    verdict = judge([entry("one", [2.0, 2.1, 2.2]), entry("two", [1.0, None, 1.1])])
    last = verdict.standings[-1]
    assert (last.name, last.diverged, last.broken, last.mean) == ("two", 1, (1,), pytest.approx(1.05))
    assert "two: diverged with seed 1" in tables.text(verdict)
    assert verdict.pairs[0].seeds == 2


def test_a_contestant_of_which_every_run_broke_is_last_and_untested():
    verdict = judge([entry("one", [None, None]), entry("two", [2.0, 2.1])])
    assert [s.name for s in verdict.standings] == ["two", "one"]
    assert "no test" in tables.text(verdict)
    assert json.loads(tables.as_json(verdict))["standings"][1]["mean"] is None


def test_an_unfinished_run_is_named():
    runs = [run([4.0, 2.0], 0), dataclasses.replace(run([4.0, 2.0], 1), records=[])]
    text = tables.text(judge([Entry("one", runs), entry("two", [2.0, 2.1])]))
    assert "one: unfinished with seed 1" in text


def test_a_contestant_without_any_run_yet_is_shown():
    text = tables.text(judge([entry("one", [2.0, 2.1]), Entry("two", [], (0, 1))]))
    assert "two: unfinished with seed 0, 1" in text and "nan" not in text


def test_the_best_rate_wins_and_an_edge_is_warned_of():
    rates = (0.001, 0.01)
    runs = [run([4.0, 3.0 - 10 * lr + 0.01 * seed], seed, lr=lr) for lr in rates for seed in (0, 1)]
    verdict = judge([entry("one", [3.0, 3.1]), Entry("two", runs, (0, 1), rates)])
    assert verdict.standings[0].lr == 0.01 and verdict.standings[0].edge == "highest"
    assert "two: lr 0.01 is the highest tried" in tables.text(verdict)


def test_steps_tokens_and_speed_to_what_the_first_reached():
    # From 4 to 2 in 20 steps; the other is down to 2 after 10 of its 20.
    slow = [run([4.0, 2.0], seed) for seed in (0, 1)]
    fast = [run([2.0, 1.0], seed) for seed in (0, 1)]
    verdict = judge([Entry("slow", slow), Entry("fast", fast)])
    standing = verdict.standings[0]
    assert (standing.name, standing.steps, standing.tokens, standing.speedup) == ("fast", 10, 320, 2.0)


def test_a_target_brings_the_rule_of_the_third_track():
    verdict = judge([entry("one", [2.0, 2.0]), entry("two", [1.9, 1.9])], target=2.0)
    by_name = {s.name: s.track_3 for s in verdict.standings}
    assert by_name == {"one": False, "two": True}
    assert "two: below the target: (target - mean) sqrt(2) = 0.1414 >= 0.004" in tables.text(verdict)


@pytest.mark.parametrize(("name", "value"), [("steps", 40), ("tokenizer", "byte"), ("context", 16), ("data", "y")])
def test_runs_of_other_data_or_length_are_refused_by_field(name, value):
    with pytest.raises(UserError, match=f"differ in {name}"):
        judge([entry("one", [2.0, 2.1]), entry("two", [2.0, 2.1], **{name: value})])


def test_every_form_says_the_same():
    verdict = judge([entry("one", [2.0, 2.1]), entry("a name | of many " + "w" * 80, [1.9, 2.0])], target=1.95)
    values = json.loads(tables.as_json(verdict))
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(verdict))))
    assert [float(row["mean"]) for row in rows] == [s["mean"] for s in values["standings"]] == [1.95, 2.05]
    table = tables.text(verdict).split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= tables.WIDTH
    page = tables.markdown(verdict).splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in page if line.startswith("|")}) == 1
