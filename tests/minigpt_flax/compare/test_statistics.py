"""The statistics against SciPy and textbook numbers; the display of diverged and unfinished runs."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from scipy import stats

from minigpt_flax.compare import tables
from minigpt_flax.compare.collect import group_runs
from minigpt_flax.compare.statistics import CandidateRuns, PairedTest, holm, p_value, summarize
from minigpt_flax.errors import UserError
from tests.minigpt_flax.made_runs import run


def entry(name, finals, lr=0.001, searched=(), **config):
    """A candidate whose runs end at these losses, by seed; None is a diverged run."""
    return CandidateRuns(
        name, [run([4.0, loss], seed, lr=lr, **config) for seed, loss in enumerate(finals)], (), searched
    )


def test_p_value_matches_scipys_paired_t_test():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30):
        a, b = rng.normal(0, 1, n), rng.normal(0.5, 1, n)
        assert p_value(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_p_value_of_a_constant_difference():
    assert p_value([0.25, 0.25, 0.25]) == 0.0
    assert p_value([0.0, 0.0, 0.0]) == 1.0


def test_holm_on_textbook_numbers():
    # Step-down by hand: 4 x 0.01, 3 x 0.013, 2 x 0.02, 1 x 0.04, each at least as large as the previous one.
    tests = [PairedTest("a", "b", 1.0, 0.1, 3, p) for p in (0.04, 0.01, 0.02, 0.013)]
    assert [test.corrected for test in holm(tests)] == pytest.approx([0.04, 0.04, 0.04, 0.04])
    tests = [PairedTest("a", "b", 1.0, 0.1, 3, p) for p in (0.005, 0.5, None)]
    assert [test.corrected for test in holm(tests)] == [0.01, 0.5, None]


def test_holm_equals_bonferroni_for_the_smallest_p_and_keeps_the_order():
    p = np.random.default_rng(1).uniform(0, 0.2, 12)
    corrected = [test.corrected for test in holm([PairedTest("a", "b", 1.0, 0.1, 3, float(x)) for x in p])]
    assert min(corrected) == pytest.approx(min(1, 12 * p.min()))
    assert np.all(np.diff(np.array(corrected)[np.argsort(p)]) >= 0)


def test_pairing_removes_the_variance_between_seeds():
    seeds = np.random.default_rng(2).normal(0, 1, 4)  # nats: much larger than the candidates' difference
    summary = summarize([entry("worse", 3 + seeds), entry("better", 2.9 + seeds + [0, 1e-3, -1e-3, 0])])
    assert [result.name for result in summary.results] == ["better", "worse"]
    assert summary.tests[0].better == "better" and summary.tests[0].significant
    assert "better beats worse by 0.1000" in tables.text(summary)


def test_noise_is_reported_as_not_significant():
    summary = summarize([entry("one", [2.0, 2.2, 2.1]), entry("two", [2.1, 2.1, 2.05])])
    assert not summary.tests[0].significant
    assert "not significant" in tables.text(summary)


def test_a_diverged_run_is_shown_and_excluded_from_the_mean():
    summary = summarize([entry("one", [2.0, 2.1, 2.2]), entry("two", [1.0, None, 1.1])])
    last = summary.results[-1]
    assert (last.name, last.diverged, last.diverged_seeds, last.mean) == ("two", 1, (1,), pytest.approx(1.05))
    assert "two: diverged with seed 1" in tables.text(summary)
    assert summary.tests[0].seeds == 2


def test_a_candidate_whose_runs_all_diverged_is_last_and_not_tested():
    summary = summarize([entry("one", [None, None]), entry("two", [2.0, 2.1])])
    assert [result.name for result in summary.results] == ["two", "one"]
    assert "not tested" in tables.text(summary)
    assert json.loads(tables.as_json(summary))["standings"][1]["mean"] is None


def test_an_unfinished_run_is_named():
    runs = [run([4.0, 2.0], 0), dataclasses.replace(run([4.0, 2.0], 1), records=[])]
    text = tables.text(summarize([CandidateRuns("one", runs), entry("two", [2.0, 2.1])]))
    assert "one: unfinished with seed 1" in text


def test_a_candidate_without_runs_is_shown():
    text = tables.text(summarize([entry("one", [2.0, 2.1]), CandidateRuns("two", [], (0, 1))]))
    assert "two: unfinished with seed 0, 1" in text and "nan" not in text


def test_the_best_rate_is_selected_with_a_warning_at_the_edge():
    rates = (0.001, 0.01)
    runs = [run([4.0, 3.0 - 10 * lr + 0.01 * seed], seed, lr=lr) for lr in rates for seed in (0, 1)]
    summary = summarize([entry("one", [3.0, 3.1]), CandidateRuns("two", runs, (0, 1), rates)])
    assert summary.results[0].lr == 0.01 and summary.results[0].edge == "highest"
    assert "two: lr 0.01 is the highest tried" in tables.text(summary)


def test_steps_tokens_and_speedup_to_the_baselines_loss():
    # The baseline falls from 4 to 2 in 20 steps; the other reaches 2 after 10 of its 20.
    slow = [run([4.0, 2.0], seed) for seed in (0, 1)]
    fast = [run([2.0, 1.0], seed) for seed in (0, 1)]
    summary = summarize([CandidateRuns("slow", slow), CandidateRuns("fast", fast)])
    result = summary.results[0]
    assert (result.name, result.steps, result.tokens, result.speedup) == ("fast", 10, 320, 2.0)


def test_a_target_adds_the_rule_of_the_third_track():
    summary = summarize([entry("one", [2.0, 2.0]), entry("two", [1.9, 1.9])], target=2.0)
    by_name = {result.name: result.track_3 for result in summary.results}
    assert by_name == {"one": False, "two": True}
    assert "two: below the target: (target - mean) sqrt(2) = 0.1414 >= 0.004" in tables.text(summary)


@pytest.mark.parametrize(("name", "value"), [("steps", 40), ("tokenizer", "byte"), ("context", 16), ("data", "y")])
def test_runs_of_different_data_or_length_are_rejected(name, value):
    with pytest.raises(UserError, match=f"differ in {name}"):
        summarize([entry("one", [2.0, 2.1]), entry("two", [2.0, 2.1], **{name: value})])


def test_the_same_data_under_another_path_is_the_same_data():
    there = lambda path, digest: {"data": [path], "env": {"data": {"name": "x", "sha256": digest}}}
    one, two = entry("one", [2.0, 2.1], **there("/a/x", "0" * 64)), entry("two", [1.0, 1.1], **there("/b/x", "0" * 64))
    assert summarize([one, two]).results[0].name == "two"
    other = entry("two", [1.0, 1.1], **there("/a/x", "1" * 64))
    with pytest.raises(UserError, match=r"differ in data: /a/x \(000000000000\) and /a/x \(111111111111\)"):
        summarize([one, other])
    runs = [*one.runs, *(dataclasses.replace(each, config=each.config | {"seed": 9}) for each in two.runs[:1])]
    assert [len(group.runs) for group in group_runs(runs)] == [3]


def test_a_run_whose_label_would_be_too_long_is_named_by_its_path():
    first, second = run([2.0], 0), run([1.0], 0, mesh="x" * 100_000)
    short, long = group_runs([first, second])
    assert short.name == "mesh None" and long.name == str(second.path)


def test_all_formats_agree():
    summary = summarize([entry("one", [2.0, 2.1]), entry("a name | of many " + "w" * 80, [1.9, 2.0])], target=1.95)
    values = json.loads(tables.as_json(summary))
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(summary))))
    assert [float(row["mean"]) for row in rows] == [s["mean"] for s in values["standings"]] == [1.95, 2.05]
    table = tables.text(summary).split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= tables.WIDTH
    page = tables.markdown(summary).splitlines()
    assert len({line.replace(r"\|", "").count("|") for line in page if line.startswith("|")}) == 1


def test_keys_of_the_json_are_stable():
    values = json.loads(tables.as_json(summarize([entry("one", [2.0, 2.1]), entry("two", [1.9, 2.0])])))
    assert list(values) == ["target", "first", "search_seed", "standings", "pairs"]
    assert list(values["standings"][0]) == [*tables.FIELDS, "losses", "broken", "missing", "track_3"]
    pair = ["better", "worse", "difference", "sem", "seeds", "p", "corrected", "significant"]
    assert list(values["pairs"][0]) == pair


def test_a_column_without_values_and_its_legend_are_omitted():
    summary = summarize([entry("a", (3.0, 3.1)), entry("b", (3.2, 3.3))])
    results = [dataclasses.replace(result, seconds=None, ms_per_step=None) for result in summary.results]
    shown = tables.text(dataclasses.replace(summary, results=results))
    assert "steps" in shown and "secs" not in shown and "ms:" not in shown and "div:" in shown
    assert max(map(len, shown.splitlines())) <= tables.WIDTH
