"""How a comparison adds seeds, on runs with chosen losses instead of trained ones."""

import json

import numpy as np
import pytest

from minigpt_flax.compare import comparison as comparisons, rate_search, runner
from minigpt_flax.compare.collect import collect_runs, summarize_comparison
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.errors import UserError
from tests.minigpt_flax.made_runs import write

SIZES = (7, 10, 14, 20)


def comparison(**changes):
    values = {"preset": "nano", "given": {"steps": 20}, "opts": ("adamw", "lion"), "schedules": (), "lr": ()}
    settings = {"search": False, "seeds": tuple(range(7)), "resolution": 0.01, "max_seeds": 20}
    return comparisons.check(Comparison(**values | settings | changes))


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: writes the runs of the comparison's seeds; returns their number at each call."""
    calls = []

    def install(difference, spread, status=()):
        rng = np.random.default_rng(4)
        noise = {seed: rng.normal(difference, spread) for seed in range(40)}

        def train_seeds(comparison, folder, **how):
            calls.append(len(comparison.seeds))
            if len(calls) in status:
                return 143
            for candidate in comparison.candidates:
                for seed in comparison.seeds:
                    config = comparison.config(candidate, seed=seed)
                    path = comparison.path(folder, candidate, config)
                    loss = 3.0 + noise[seed] * (candidate.name == "lion")
                    fields = {"steps": 20, "lr": config.lr, "opt": candidate.name, "seed": seed}
                    _ = path.exists() or write(path, [4.0, loss], **fields)
            return 0

        monkeypatch.setattr(runner, "train_seeds", train_seeds)
        monkeypatch.setattr(runner, "check_candidate", lambda *arguments: None)
        return calls

    return install


@pytest.mark.parametrize(
    ("difference", "spread", "counts"),
    [(1.0, 0.01, [7]), (0.0, 0.001, [7]), (0.0, 1.0, [7, 10, 14, 20]), (0.1, 0.1, [7, 10, 14])],
)
def test_seeds_are_added_until_the_tests_are_decided(trained, tmp_path, capfd, difference, spread, counts):
    calls = trained(difference, spread)
    assert runner.run_comparison(comparison(), tmp_path / "c") == 0
    assert calls == counts
    said = capfd.readouterr().out
    assert "2 candidates, at most 40 runs, at most 800 steps in all" in said
    assert said.count("undecided: ") == len(counts) - 1
    assert json.loads((tmp_path / "c" / comparisons.FILE).read_text())["seeds"] == list(range(counts[-1]))


def test_a_stopped_comparison_continues_with_the_seeds_that_it_has(trained, tmp_path):
    calls = trained(0.0, 1.0, status=(2,))
    assert runner.run_comparison(comparison(), tmp_path / "c", shown=False) == 143
    there = comparisons.continued(comparison(), tmp_path / "c", None)
    assert len(there.seeds) == 10 and there == comparisons.load(tmp_path / "c")
    assert runner.run_comparison(there, tmp_path / "c", shown=False) == 0
    assert calls == [7, 10, 10, 14, 20]
    assert runner.run_comparison(comparisons.load(tmp_path / "c"), tmp_path / "c", shown=False) == 0
    assert calls[-1:] == [20]


def test_a_share_leaves_the_decision_to_the_whole(trained, tmp_path):
    calls = trained(0.0, 1.0)
    assert runner.run_comparison(comparison(), tmp_path / "c", shown=False, share="0/2", jobs=2) == 0
    assert calls == [7]
    with pytest.raises(UserError, match="decides in one process when to add seeds: omit --share, or use --jobs"):
        runner.run_comparison(comparison(), tmp_path / "c", shown=False, share="0/2")


def test_the_seed_of_the_search_is_left_out(trained, tmp_path):
    searched = comparison(search=True)
    assert searched.search_seed == 7
    assert searched.with_seeds(10).seeds == (*range(7), 8, 9, 10)


def test_p_and_interval_of_the_summary_hold_for_all_looks(trained, tmp_path):
    trained(0.1, 0.1)
    runner.run_comparison(comparison(), tmp_path / "c", shown=False)
    there = comparisons.load(tmp_path / "c")
    runs = collect_runs(there, tmp_path / "c")
    summary = summarize_comparison(there, runs)
    fixed = summarize_comparison(comparison(max_seeds=None, seeds=there.seeds), runs)
    (ours,), (theirs,) = summary.tests, fixed.tests
    assert summary.looks == SIZES and ours.significant and ours.seeds == theirs.seeds == 14
    assert ours.p > theirs.p and ours.interval[0] < theirs.interval[0] < theirs.interval[1] < ours.interval[1]


@pytest.mark.parametrize(("slope", "end"), [(-0.2, "highest"), (0.2, "lowest"), (0.0, "")])
def test_a_search_that_ends_at_an_end_gives_no_verdict(tmp_path, slope, end):
    searched = comparison(search=True, given={"steps": 160}, max_seeds=None)
    for candidate in searched.candidates:
        own = searched.config(candidate).lr
        for k, rate in enumerate(rate_search.grid(own, range(-3, 3))):
            loss = 3.0 + (slope * k if slope and candidate.name == "lion" else abs(k - 3))
            config = searched.config(candidate, rate, 20, searched.search_seed)
            fields = {"lr": rate, "opt": candidate.name, "seed": config.seed}
            write(searched.path(tmp_path, candidate, config), [4.0, loss], steps=20, **fields)
        for seed in searched.seeds:
            config = searched.config(candidate, own, seed=seed)
            fields = {"lr": own, "opt": candidate.name, "seed": seed}
            loss = 3.0 + 0.01 * seed * (candidate.name == "lion")
            write(searched.path(tmp_path, candidate, config), [4.0, loss], steps=160, **fields)
    runs = collect_runs(searched, tmp_path)
    assert [candidate.end for candidate in runs] == ["", end] and len(runs[1].searched) == 6
    summary = summarize_comparison(searched, runs)
    (test,) = summary.tests
    assert test.obstacle == (f"the best lr of lion is not decided: its search ended at the {end} one" if end else "")
    assert {result.name: result.edge for result in summary.results} == {"adamw": "", "lion": end}
