"""What a comparison refuses, and the cost that it reports."""

import pytest

from minigpt_flax.compare import comparison as comparisons, successive_halving
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.errors import UserError


def comparison(**changes):
    values = {
        "preset": "nano",
        "given": {"steps": 40},
        "opts": ("adamw", "lion"),
        "schedules": (),
        "lr": (),
        "search": False,
        "seeds": (0, 1, 2),
    }
    return Comparison(**values | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opts": ("adamw",)}, "two candidates"),
        ({"opts": ()}, "two candidates"),
        ({"opts": ("lion", "lion")}, "given twice"),
        ({"seeds": (0,)}, "--seeds must be at least 2, got 1"),
        ({"lr": (0.1, -1.0)}, "--lr must be above 0"),
        ({"lr": (float("nan"),)}, "--lr must be a number"),
        ({"search": True, "given": {"steps": 7}}, "at least 8, got 7"),
        ({"target": -1.0}, "--target"),
        ({"seeds": (-5, -4)}, "--seed, .* must be at least 0, got -5"),
        ({"seeds": (2**63 - 2, 2**63 - 1)}, "--seed, .* must be at most"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        comparisons.check(comparison(**changes))


def test_the_budget_counts_every_run():
    assert (comparison().runs, comparison().budget) == (6, 240)
    assert (comparison(lr=(0.1, 0.2)).runs, comparison(lr=(0.1, 0.2)).budget) == (12, 480)
    searched = comparison(search=True)  # 5 of 10 and 2 of 20 steps, then three seeds of 40; twice
    assert (searched.runs, searched.budget) == (20, 2 * (50 + 40 + 120))


def test_a_search_takes_the_best_of_the_last_rung_and_costs_what_it_reported():
    paid = []

    def score(rates, steps):
        paid.extend([steps] * len(rates))
        return [float("inf") if rate > 0.5 else abs(rate - 0.03) for rate in rates]

    assert successive_halving.search(successive_halving.around(0.1), 40, score) == pytest.approx(0.032)
    assert sorted(paid) == sorted(successive_halving.lengths(40))


def test_every_candidate_has_its_own_folder_and_name():
    found = comparison(opts=("adamw(b1=0.9)", "adamw(b1= 0.9)"), schedules=("cosine", "wsd")).candidates
    assert len({candidate.folder for candidate in found}) == len({candidate.name for candidate in found}) == 4


def test_another_comparison_in_the_folder_is_refused_and_the_same_continues(tmp_path):
    comparisons.save(comparison(), tmp_path / "c")
    comparisons.save(comparison(), tmp_path / "c")
    assert comparisons.load(tmp_path / "c") == comparison()
    with pytest.raises(UserError, match=r"with seeds=\(0, 1, 2\), not \(0, 1\)"):
        comparisons.save(comparison(seeds=(0, 1)), tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no comparison"):
        comparisons.save(comparison(), tmp_path / "d")
