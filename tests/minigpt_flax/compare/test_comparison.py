"""What a comparison refuses, and the cost that it reports."""

import dataclasses
import inspect
import json

import pytest

from jaxopt_mini import SCHEDULES
from minigpt_flax.compare import comparison as comparisons
from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.errors import UserError
from minigpt_flax.spec import Spec, parse


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
        ({"seeds": (0, 1)}, "--seeds must be at least 3, got 2: .* a verdict takes 6"),
        ({"baseline": "sgd"}, "--baseline 'sgd' is no candidate: the candidates are adamw, lion"),
        ({"resolution": 0.0}, "--resolution must be above 0"),
        ({"lr": (0.1, -1.0)}, "--lr must be above 0"),
        ({"lr": (float("nan"),)}, "--lr must be a number"),
        ({"search": True, "given": {"steps": 15}}, "at least 16, got 15"),
        ({"max_seeds": 5}, "--max-seeds must be at least 6 to decide 1 test, got 5"),
        ({"max_seeds": 2}, "--max-seeds must be at least 3, got 2"),
        ({"max_seeds": 6, "lr": (0.1, 0.2)}, "--max-seeds must be at least 7 to decide 1 test, got 6"),
        ({"target": -1.0}, "--target"),
        ({"seeds": (-5, -4, -3)}, "--seed, .* must be at least 0, got -5"),
        ({"seeds": (2**63 - 3, 2**63 - 2, 2**63 - 1)}, "--seed, .* must be at most"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        comparisons.check(comparison(**changes))


def test_the_budget_counts_every_run():
    assert (comparison().runs, comparison().budget) == (6, 240)
    assert (comparison(lr=(0.1, 0.2)).runs, comparison(lr=(0.1, 0.2)).budget) == (12, 480)
    searched = comparison(search=True)  # at most 6 of 5 and 3 of 20 steps, then three seeds of 40; twice
    assert (searched.runs, searched.budget) == (24, 2 * (30 + 60 + 120))
    added = comparison(max_seeds=20, resolution=0.01)
    assert (added.runs, added.budget) == (40, 1600)


@pytest.mark.parametrize("name", SCHEDULES)
def test_durations_of_schedules_scale_with_the_run(name):
    """The learning rates of an eighth of a run are every eighth one of the run, up to the rounding of a step."""
    parameters = inspect.signature(SCHEDULES[name]).parameters.values()
    durations = [p for p in parameters if "Duration" in str(p.annotation)]
    assert {p.name for p in durations} <= set(comparisons.DURATIONS)
    values = {p.name: (32, 64) if "Sequence" in str(p.annotation) else 32 for p in durations}
    shorter = comparisons.scaled(Spec(name, (), values), 128, 16)
    assert shorter.keywords == {p: (4, 8) if isinstance(v, tuple) else 4 for p, v in values.items()}
    long, short = (SCHEDULES[name](1.0, n, **spec) for n, spec in ((128, values), (16, shorter.keywords)))
    assert float(short(8)) == pytest.approx(float(long(64)), abs=0.05)


def test_durations_without_steps_stay():
    spec = parse("wsd(warmup=0, cooldown=0.5, shape='linear', floor=0.1, start=None)", "schedule")
    assert comparisons.scaled(spec, 100, 10) == spec


def test_a_short_run_of_a_search_has_a_warm_up_that_fits():
    searched = comparison(search=True, schedules=("warmup_cosine(warmup=30)",))
    config = searched.config(searched.candidates[0], 0.1, 5, 3)
    assert (config.steps, str(config.schedule).partition(",")[0]) == (5, "warmup_cosine(warmup=3")


def test_a_search_of_an_earlier_release_is_not_continued(tmp_path):
    comparisons.save(comparison(search=True), tmp_path)
    comparisons.save(comparison(search=True), tmp_path)
    path = tmp_path / comparisons.FILE
    path.write_text(path.read_text().replace(f'"version": {comparisons.VERSION}', '"version": 3'))
    assert comparisons.load(tmp_path).search
    with pytest.raises(UserError, match="holds a search of an earlier release: start another with --name"):
        comparisons.save(comparison(search=True), tmp_path)


def test_every_candidate_has_its_own_folder_and_name():
    found = comparison(opts=("adamw(b1=0.9)", "adamw(b1= 0.9)"), schedules=("cosine", "wsd")).candidates
    assert len({candidate.folder for candidate in found}) == len({candidate.name for candidate in found}) == 4


def test_another_comparison_in_the_folder_is_refused_and_the_same_continues(tmp_path):
    comparisons.save(comparison(), tmp_path / "c")
    comparisons.save(comparison(), tmp_path / "c")
    assert comparisons.load(tmp_path / "c") == comparison()
    with pytest.raises(UserError, match=r"with seeds=\(0, 1, 2\), not \(0, 1\)"):
        comparisons.save(comparison(seeds=(0, 1)), tmp_path / "c")
    with pytest.raises(UserError, match="with pairs=False, not True"):
        comparisons.save(comparison(pairs=True), tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no comparison"):
        comparisons.save(comparison(), tmp_path / "d")


@pytest.mark.parametrize(("search", "seeds"), [(False, (4, 5, 6, 7, 8)), (True, (4, 5, 6, 8, 9))])
def test_more_seeds_continue_a_comparison_without_that_of_its_search(tmp_path, search, seeds):
    small = comparison(search=search, seeds=(4, 5, 6))
    comparisons.save(small, tmp_path)
    assert comparisons.continued(small, tmp_path, None) == comparisons.continued(small, tmp_path, 3) == small
    larger = comparisons.continued(small, tmp_path, 5)
    assert larger.seeds == seeds and (not search or larger.search_seed == 7 == small.search_seed)
    comparisons.save(larger, tmp_path)
    for count in (None, 5):  # the same command again, as it was given first or last
        assert comparisons.continued(small, tmp_path, count) == comparisons.load(tmp_path) == larger
    with pytest.raises(UserError, match="holds a comparison with seeds"):
        comparisons.save(comparisons.continued(small, tmp_path, 4), tmp_path)
    with pytest.raises(UserError, match="holds a comparison with the default --context, not 8: give another --name"):
        comparisons.save(dataclasses.replace(larger, given={**larger.given, "context": 8}), tmp_path)
    other = comparison(search=search, seeds=(0, 1, 2))
    with pytest.raises(UserError, match="holds a comparison with seeds"):
        comparisons.save(comparisons.continued(other, tmp_path, 6), tmp_path)


@pytest.mark.parametrize(
    ("changes", "seeds"), [({}, 6), ({"opts": ("adamw", "lion", "sgd")}, 7), ({"lr": (0.1, 0.2)}, 7)]
)
def test_a_comparison_has_as_many_seeds_as_a_verdict_needs(tmp_path, changes, seeds):
    assert comparisons.continued(comparison(**changes), tmp_path, None).seeds == tuple(range(seeds))
    assert comparison(opts=("adamw", "lion", "sgd"), pairs=True).tests == 3


def test_what_an_earlier_release_wrote_is_read(tmp_path):
    comparisons.save(comparison(), tmp_path)
    path = tmp_path / comparisons.FILE
    values = json.loads(path.read_text())
    old = {name: values[name] for name in values if name not in ("baseline", "pairs", "resolution")}
    path.write_text(json.dumps({**old, "version": 2, "seeds": [0, 1]}))
    assert comparisons.load(tmp_path) == comparison(seeds=(0, 1))
