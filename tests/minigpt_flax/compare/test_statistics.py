"""The results of made-up runs: diverged, unfinished and missing ones, and how all of them are displayed."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from minigpt_flax.compare import tables
from minigpt_flax.compare.collect import group_runs
from minigpt_flax.compare.latex import latex
from minigpt_flax.compare.statistics import CandidateRuns, summarize
from minigpt_flax.errors import UserError
from tests.minigpt_flax.made_runs import run


def entry(name, finals, lr=0.001, searched=(), **config):
    """A candidate whose runs end at these losses, by seed; None is a diverged run."""
    return CandidateRuns(
        name, [run([4.0, loss], seed, lr=lr, **config) for seed, loss in enumerate(finals)], (), searched
    )


def said_of(summary):
    """The findings as one line, as the terminal's are wrapped."""
    return " ".join(tables.findings(summary))


def test_pairing_removes_the_variance_between_seeds():
    seeds = np.random.default_rng(2).normal(0, 1, 6)  # nats: much larger than the candidates' difference
    summary = summarize([entry("worse", 3 + seeds), entry("better", 2.9 + seeds + [0, 1e-3, -1e-3, 0, 0, 0])])
    assert [result.name for result in summary.results] == ["better", "worse"]
    assert summary.tests[0].better == "better" and summary.tests[0].significant
    assert "better beats worse by 0.1000" in tables.text(summary)


def test_noise_is_reported_as_not_significant():
    summary = summarize([entry("one", [2.0, 2.2, 2.1] * 2), entry("two", [2.1, 2.1, 2.05] * 2)])
    assert not summary.tests[0].significant
    assert "not significant" in said_of(summary)


def test_a_diverged_run_is_the_worst_outcome_and_shown():
    summary = summarize([entry("steady", [2.0, 2.1, 2.2] * 3), entry("breaks", [1.0, None, 1.1] * 3)])
    last = summary.results[-1]
    assert (last.name, last.diverged, last.diverged_seeds) == ("breaks", 3, (1, 4, 7))
    assert last.mean == pytest.approx(1.05) and last.diverged_interval == pytest.approx((0.0749, 0.7007), abs=1e-4)
    assert "breaks: diverged with seed 1, 4, 7" in tables.text(summary) and "3/9 7-70%" in tables.text(summary)
    test = summary.tests[0]
    assert (test.better, test.seeds, test.significant) == ("steady", 9, False)
    assert test.difference == pytest.approx(-1.05)  # of the seeds that finished


def test_a_candidate_whose_runs_all_diverged_is_last_and_beaten():
    summary = summarize([entry("one", [None] * 6), entry("two", [2.0, 2.1] * 3)])
    assert [result.name for result in summary.results] == ["two", "one"]
    assert "two beats one, 6 seeds, p = 0.031" in tables.text(summary)
    values = json.loads(tables.as_json(summary))
    assert values["standings"][1]["mean"] is None and values["pairs"][0]["difference"] is None


@pytest.mark.parametrize("finals", [[2.0, None, 2.1], [None, 1.0], [None, None], [2.0]])
def test_every_outcome_has_a_row_and_a_sentence(finals):
    summary = summarize([entry("one", [2.0, 2.1, 2.3]), entry("two", finals)])
    assert tables.as_json(summary) and tables.as_csv(summary) and tables.markdown(summary)
    assert "no verdict" in said_of(summary) and not summary.tests[0].significant


def far_apart(count=6):
    """Losses of two candidates of which the second is better with every seed."""
    finals = [3 + 0.01 * i for i in range(count)]
    return finals, [loss - 0.1 - 0.001 * i for i, loss in enumerate(finals)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"searched": (0.0001, 0.001), "search_seed": 9}, "b is best at the highest lr tried"),
        ({"searched": (0.001, 0.01), "search_seed": 9}, "b is best at the lowest lr tried"),
        ({"seeds": range(7)}, "b has unfinished runs"),
        ({"searched": (0.0001, 0.001, 0.01)}, "b has unfinished runs"),  # at the other rates
        (
            {"searched": (0.0001, 0.001, 0.01), "search_seed": 9, "end": "highest"},
            "the best lr of b is not decided: its search ended at the highest one",
        ),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_there_is_no_verdict_on_a_candidate_at_an_edge_or_unfinished(more, said, swapped):
    worse, better = map(lambda name, finals: entry(name, finals), "ab", far_apart())
    if swapped:
        worse, better = (dataclasses.replace(e, name=name) for e, name in ((worse, "b"), (better, "a")))
    assert summarize([worse, better]).tests[0].significant
    changed = [dataclasses.replace(e, **more) if e.name == "b" else e for e in (worse, better)]
    summary = summarize(changed)
    assert not summary.tests[0].significant and f"no verdict: {said}" in said_of(summary)


def test_a_seed_that_only_one_candidate_has_is_missing():
    worse, better = far_apart(7)
    summary = summarize([entry("a", worse), entry("b", better[:6])])
    assert "b: unfinished with seed 6" in tables.text(summary) and not summary.tests[0].significant


def test_there_is_no_verdict_within_the_resolution():
    losses = [2 + 0.1 * seed for seed in range(8)]
    for shift, resolution, significant in ((2**-30, 1e-4, False), (1e-3, 1e-4, True), (1e-3, 1e-2, False)):
        entries = entry("a", losses), entry("b", [loss + shift * (1 + i / 9) for i, loss in enumerate(losses)])
        summary = summarize(entries, resolution=resolution)
        assert summary.tests[0].significant == significant
        assert ("within the resolution" in said_of(summary)) == (not significant)


def test_the_family_is_what_was_planned_whatever_has_ended():
    worse, better = far_apart(9)
    waiting = [CandidateRuns(f"w{i}", [], tuple(range(9))) for i in range(10)]
    ended = [entry(f"w{i}", [4.0 + 0.01 * i] * 9) for i in range(10)]
    corrected = [summarize([entry("a", worse), entry("b", better), *rest]).tests[0] for rest in (waiting, ended)]
    assert [test.corrected for test in corrected] == [pytest.approx(11 * 2 / 2**9)] * 2
    waiting = [dataclasses.replace(each, seeds=()) for each in waiting]
    few = said_of(summarize([entry("a", worse[:6]), entry("b", better[:6]), *waiting]))
    assert "no verdict: 9 seeds can decide" in few and "w0 has unfinished runs" in few


def test_each_is_tested_against_the_baseline_or_all_pairs():
    entries = [entry(name, [loss, loss + 0.1]) for name, loss in (("a", 3.0), ("b", 2.0), ("c", 1.0))]
    tested = lambda **how: [{t.better, t.worse} for t in summarize(entries, **how).tests]
    assert tested() == [{"a", "b"}, {"a", "c"}] and tested(baseline="b") == [{"a", "b"}, {"b", "c"}]
    assert len(tested(pairs=True)) == 3
    summary = summarize(entries, baseline="c")
    assert summary.baseline == "c" and {r.name: r.speedup for r in summary.results}["c"] == 1.0
    with pytest.raises(UserError, match=r"--baseline 'd' is no candidate.*: the candidates are a, b, c"):
        summarize(entries, baseline="d")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "paired by seed: same weights and batches"),
        ({"opt": "lion", "clip": "none", "lr": 0.1}, "paired by seed: same weights and batches"),
        ({"width": 32}, "the runs differ in width"),
        ({"init": "gpt2"}, "aren't recorded"),
        ({"env": {"data": None}, "data": ["x"]}, "aren't recorded"),
    ],
)
def test_same_weights_and_batches_are_claimed_only_where_they_are_recorded(change, said):
    same = {"env": {"data": {"sha256": "0" * 64}}, "width": 16}
    first, other = same | ({"env": {}} if "data" in change else {}), {"lr": 0.001, **same, **change}
    summary = summarize([entry("a", [2.0, 2.1], **first), entry("b", [2.0, 2.3], **other)])
    assert said in said_of(summary)


def test_rates_that_the_compared_runs_select_are_judged_by_other_seeds():
    rates = (0.001, 0.002, 0.003, 0.004)
    entries = []
    for i, noise in enumerate(np.random.default_rng(3).normal(0, 0.1, (40, len(rates), 5))):  # the rates are equal
        runs = [run([4.0, 2 + noise[k, s]], s, lr=lr) for k, lr in enumerate(rates) for s in range(5)]
        entries.append(CandidateRuns(f"c{i}", runs, tuple(range(5)), rates))
    results = summarize(entries).results
    assert np.mean([r.mean for r in results]) < 1.97  # the lowest of four noisy means
    assert abs(np.mean([list(r.outcomes.values()) for r in results]) - 2) < 0.02
    assert all(set(r.outcomes) == {1, 2, 3, 4} for r in results)
    apart = dataclasses.replace(entries[0], search_seed=99)
    assert dict(summarize([apart]).results[0].outcomes) == dict(next(r for r in results if r.name == "c0").losses)


def test_a_diverged_run_counts_against_its_rate():
    rates = (0.001, 0.002, 0.003)
    finals = {0.001: [3.0] * 3, 0.002: [None, 2.4, 2.5], 0.003: [2.0, 2.0, 2.0]}
    runs = [run([4.0, loss], s, lr=lr) for lr in rates for s, loss in enumerate(finals[lr])]
    summary = summarize([CandidateRuns("a", runs, (0, 1, 2), rates), entry("b", [2.0, 2.1, 2.2])])
    result = next(r for r in summary.results if r.name == "a")
    assert result.lr == 0.003 and dict(result.outcomes) == {1: 2.0, 2: 2.0}
    said = said_of(summary)
    assert "a: 1 run diverged at other learning rates" in said and "the rate that the first seed selects" in said
    assert "no verdict: a is best at the highest lr tried" in said


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
    assert "two: the best lr may be higher than 0.01" in tables.text(summary)


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


@pytest.mark.parametrize(("name", "value"), [("tokenizer", "byte"), ("context", 16), ("data", "y")])
def test_runs_whose_losses_have_another_meaning_are_rejected(name, value):
    with pytest.raises(UserError, match=f"differ in {name}"):
        summarize([entry("one", [2.0, 2.1]), entry("two", [2.0, 2.1], **{name: value})])


RECORDED = {"env": {"data": {"sha256": "0" * 64}}}
SEPARATE = [1.0 + 0.001 * seed for seed in range(8)], [2.0 + 0.003 * seed for seed in range(8)]


def test_there_is_no_verdict_between_different_numbers_of_tokens():
    one, two = entry("one", SEPARATE[1], **RECORDED), entry("two", SEPARATE[0], steps=40, **RECORDED)
    summary = summarize([one, two])
    assert not summary.tests[0].significant and summary.best is None and summary.results[0].speedup is None
    assert summary.tests[0].obstacle.startswith("one trains on 640 tokens and two on 1,280")
    printed = tables.text(summary)
    assert "20x32" in printed and "40x32" in printed and "runs differ in steps" in said_of(summary)
    assert r"$40 \times 32$" in latex(summary) and "bold" not in latex(summary)
    at_target = {result.name: result.tokens for result in summarize([one, two], target=2.5).results}
    assert at_target == {"one": pytest.approx(561.3, abs=0.1), "two": pytest.approx(960.4, abs=0.1)}


def test_there_is_a_verdict_between_equal_numbers_of_tokens():
    two = entry("two", SEPARATE[0], steps=10, batch_size=8, **RECORDED)
    summary = summarize([entry("one", SEPARATE[1], **RECORDED), two])
    assert summary.tests[0].significant and summary.best == "two"
    assert "10x64" in tables.text(summary) and "runs differ in steps, batch_size" in said_of(summary)
    assert "20x32" not in tables.text(summarize([entry("one", SEPARATE[1]), entry("two", SEPARATE[0])]))


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


def test_single_runs_that_differ_in_much_are_named_by_their_folders():
    more = {"width": 128, "layers": 4, "norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
    small, large = run([2.0], 0), run([1.0], 0, opt="muon", **more)
    one, two = (dataclasses.replace(each, name=name) for each, name in ((small, "base"), (large, "my best try")))
    assert [group.name for group in group_runs([one, two])] == ["base", "my best try"]
    assert "rmsnorm" in group_runs([small, large])[1].name  # both folders have the same name
    rate = dataclasses.replace(two, config=run([1.0], lr=0.1).config)
    assert [group.name for group in group_runs([one, rate])] == ["lr 0.001", "lr 0.1"]


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
    assert list(values) == ["target", "first", "search_seed", "standings", "pairs", "resolution", "level", "looks"]
    assert list(values["standings"][0]) == [*tables.FIELDS, "losses", "broken", "missing", "track_3"]
    pair = ["better", "worse", "difference", "sem", "seeds", "p", "corrected", "interval", "obstacle", "significant"]
    assert list(values["pairs"][0]) == pair


def test_a_column_without_values_and_its_legend_are_omitted():
    summary = summarize([entry("a", (3.0, 3.1)), entry("b", (3.2, 3.3))])
    results = [dataclasses.replace(result, ms_range=None) for result in summary.results]
    shown = tables.text(dataclasses.replace(summary, results=results))
    assert "steps" in shown and "ms:" in tables.text(summary) and "ms:" not in shown and "diverged:" in shown
    assert max(map(len, shown.splitlines())) <= tables.WIDTH
