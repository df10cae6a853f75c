"""The search on losses that are known: what it finds, and what it costs."""

import math

import pytest

from minigpt_flax.tune.axes import parse
from minigpt_flax.tune.search import (
    REFINE,
    Search,
    everything,
    grid_size,
    make_plan,
    neighbors,
    smallest_budget,
    spread,
)

LR, DECAY, B2 = parse("lr=1e-4..1e-2"), parse("weight_decay=0.01,0.1,0.3"), parse("b2=0.9..0.999")
ALL = [LR, DECAY, B2]


def searched(axes, loss, steps=800, **plan):
    """The best setting, the search, and the steps that it took; the loss is a function of the indices."""
    taken = []

    def score(stage, settings, length):
        taken.extend([length] * len(settings))
        return [loss(setting) + steps / length for setting in settings]

    search = Search(axes, make_plan(axes, steps, **plan), score)
    return search.run(), search, sum(taken)


def bowl(*optimum):
    """A loss with its minimum at these indices."""
    return lambda setting: sum((at - best) ** 2 for at, best in zip(setting, optimum, strict=True))


@pytest.mark.parametrize("best", [(2, 1, 2), (0, 0, 0), (4, 2, 4), (1, 2, 3)])
def test_the_best_setting_of_a_grid_is_found_with_a_fifth_of_its_steps(best):
    found, search, steps = searched(ALL, bowl(*best))
    assert found == best
    assert steps <= search.plan.budget <= 0.2 * grid_size(ALL) * 800


def test_keywords_that_depend_on_each_other():
    """A narrow valley: a step along one keyword alone is worse."""
    found, _, _ = searched([LR, B2], lambda s: (s[0] - s[1]) ** 2 + 0.1 * (s[0] + s[1] - 6) ** 2, budget=14.0)
    assert found == (3, 3)


@pytest.mark.parametrize("best", [(6, 1), (-2, 1)])
def test_a_range_extends_to_the_best_value_and_a_list_does_not(best):
    assert searched([LR, DECAY], bowl(*best))[0] == best
    assert searched([DECAY, LR], bowl(*best))[0] == (min(max(best[0], 0), 2), 1)


def test_a_setting_that_the_optimizer_refuses_is_not_run():
    settings = []
    score = lambda stage, some, length: settings.extend(some) or [-float(some_one[0]) for some_one in some]
    axes = [LR, DECAY]
    found = Search(axes, make_plan(axes, 800), score, valid=lambda setting: setting[0] <= 5).run()
    assert found[0] == 5 and max(setting[0] for setting in settings) == 5


def test_the_neighbors_of_the_result_are_run_if_the_budget_allows_it():
    found, search, _ = searched(ALL, bowl(2, 1, 2))
    around = {one for pair in neighbors(ALL, found).values() for one in pair if one}
    assert len(around) == 6 and around <= search.losses[REFINE].keys()


@pytest.mark.parametrize("axes", [[LR], [DECAY], [DECAY, parse("x=1,2")]])
def test_few_settings_are_all_run(axes):
    found, search, steps = searched(axes, bowl(*(1 for _ in axes)))
    assert found == tuple(1 for _ in axes)
    assert steps == grid_size(axes) * 800 and set(everything(axes)) == search.losses[REFINE].keys()


@pytest.mark.parametrize("steps", [16, 17, 100, 300, 12_345])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_a_plan_keeps_its_budget_and_has_a_run_for_every_neighbor(count, steps):
    axes = [parse(f"k{i}=1e-4..1") for i in range(count)]
    for budget in (float(smallest_budget(axes)), 50.0, 51.5):
        plan = make_plan(axes, steps, budget)
        if not plan.is_exhaustive:
            assert plan.budget <= budget * steps
            assert plan.refined >= 2 * count + 1 and plan.halved >= 2 and plan.screened >= count


def test_short_runs_get_full_runs_of_every_setting():
    assert make_plan(ALL, 15).is_exhaustive and not make_plan(ALL, 16).is_exhaustive


@pytest.mark.parametrize("axes", [[LR], [LR, B2], ALL, [*ALL, parse("eps=1e-12..1e-6")]])
def test_the_first_settings_are_distinct_and_cover_every_value(axes):
    count = min(grid_size(axes), 4 * max(len(axis.values) for axis in axes))
    found = spread(axes, count)
    assert len(set(found)) == len(found) == count
    for i, axis in enumerate(axes):
        assert {setting[i] for setting in found} == set(range(len(axis.values)))
    assert spread(axes, 1) == [tuple(len(axis.values) // 2 for axis in axes)]


def test_diverged_settings_are_the_worst():
    loss = lambda setting: math.inf if setting[0] > 2 else -float(setting[0])
    found, search, _ = searched([LR, B2], loss)
    assert found[0] <= 2 and math.isfinite(search.losses[REFINE][found])
    assert math.isinf(searched([LR, B2], lambda setting: math.inf)[1].losses[REFINE][(2, 2)])


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_the_best_learning_rate_of_short_runs_is_extrapolated_to_full_ones(shift):
    """Every doubling of the steps lowers the best index by ``shift`` (0.3 decades are 0.6 of a step of the grid)."""

    def score(stage, settings, steps):
        best = 2 - shift * math.log2(steps / 800)
        return [min(4.0, (setting[0] - best) ** 2) + 0.1 * (setting[1] - 2) ** 2 for setting in settings]

    search = Search([LR, B2], make_plan([LR, B2], 800), score)
    assert search.run() == (2, 2)
    assert next(iter(search.losses[REFINE]))[0] == pytest.approx(2, abs=1)
