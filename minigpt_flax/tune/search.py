"""The search of ``tune``: screen many settings with short runs, halve their number, refine around the best one.

A setting is one index per keyword, into the grid of its values; an index beyond the grid extends a range. The search
has three stages:

1. *Screen*. Runs of an eighth of the steps: settings that cover the grid evenly, and then the neighbors of the best
   one, as long as they improve it.
2. *Halve*. The best few settings train for half of the steps, the best one also at lower learning rates: short runs
   prefer high ones. The learning rate for full runs is extrapolated; see :mod:`minigpt_flax.compare.rate_search`.
3. *Refine*. Full runs: the best setting, and its neighbors along every keyword. The search moves to a better neighbor
   and continues there, until the budget is used up, or neither a neighbor along one keyword nor one along two is
   better.

The neighbors of the result are the sensitivity that ``tune`` reports.

``python -m benchmarks.tune`` measures the regret: the loss of the result above that of the best setting of the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minigpt_flax.compare.rate_search import (
    DOUBLINGS,
    LARGEST,
    LONG,
    SHORT,
    SHORTEST,
    TEMPERATURE,
    TOLERANCE,
    loss_range,
    lowest_good,
    weighted_mean,
)
from minigpt_flax.tune.axes import LOG, Axis

SHARE = 0.2  # of the steps of an exhaustive search
FULL = 0.6  # of the budget is for full runs
MARGIN = 6  # full runs beyond the setting and its neighbors, at least
BEYOND = 2  # runs by which an exhaustive search may extend a range
SPREAD = 2 / 3  # of the screened settings cover the grid; the others are neighbors of the best

LOWER = 2  # lower learning rates that the best screened setting tries with half runs

Setting = tuple[int, ...]  # an index per keyword
Score = Callable[[str, Sequence[Setting], int], Sequence[float]]
"""``(stage, settings, steps) -> losses``; infinite if a run diverged."""
SCREEN, HALVE, REFINE = "screen", "halve", "refine"
STAGES = (SCREEN, HALVE, REFINE)


@dataclass(frozen=True)
class Plan:
    """Sizes of a search.

    Attributes:
      steps: of a full run.
      grid: number of settings of an exhaustive search.
      screened: number of settings with short runs; 0 if the search is exhaustive.
      halved: number of settings with half runs.
      refined: number of settings with full runs.
    """

    steps: int
    grid: int
    screened: int
    halved: int
    refined: int

    @property
    def lengths(self) -> dict[str, tuple[int, int]]:
        """The largest number of settings and the steps of a run, by stage."""
        return {
            SCREEN: (self.screened, self.steps // SHORT),
            HALVE: (self.halved, self.steps // LONG),
            REFINE: (self.refined, self.steps),
        }

    @property
    def budget(self) -> int:
        """Steps of all settings, at most."""
        return sum(count * steps for count, steps in self.lengths.values())

    @property
    def is_exhaustive(self) -> bool:
        """Whether every setting of the grid gets a full run."""
        return not self.screened

    @property
    def share(self) -> float:
        """The budget as a share of that of an exhaustive search."""
        return self.budget / (self.grid * self.steps)


def grid_size(axes: Sequence[Axis]) -> int:
    """The number of settings of the grid."""
    return math.prod(len(axis.values) for axis in axes)


def make_plan(axes: Sequence[Axis], steps: int, budget: float | None = None) -> Plan:
    """Divides a budget among the stages.

    Args:
      axes: the keywords.
      steps: of a full run.
      budget: in full runs; None takes a fifth of an exhaustive search, but enough for every neighbor of a setting.

    >>> from minigpt_flax.tune.axes import parse
    >>> plan = make_plan([parse("lr=1e-4..1e-2"), parse("weight_decay=0.01,0.1,0.3"), parse("b2=0.9..0.999")], 300)
    >>> plan, plan.budget, round(plan.share, 2)
    (Plan(steps=300, grid=75, screened=32, halved=4, refined=9), 4484, 0.2)
    """
    grid = grid_size(axes)
    runs = smallest_budget(axes) if budget is None else budget
    runs = max(runs, SHARE * grid) if budget is None else runs
    if runs >= grid or steps < SHORTEST:
        return Plan(steps, grid, 0, 0, grid + BEYOND * sum(axis.is_range for axis in axes))
    rest = runs - max(2 * len(axes) + 1, FULL * runs)  # for the first two stages
    halved = max(2, math.floor(rest / 3 * LONG))
    screened = min(grid, math.floor((rest * steps - halved * (steps // LONG)) / (steps // SHORT)))
    spent = screened * (steps // SHORT) + halved * (steps // LONG)
    return Plan(steps, grid, screened, halved, math.floor(runs - spent / steps))


def smallest_budget(axes: Sequence[Axis]) -> int:
    """The smallest budget in full runs: a setting and its neighbors, and as much as the other stages need."""
    return 2 * len(axes) + MARGIN


class Search:
    """One search, see the module.

    Args:
      axes: the keywords.
      plan: sizes of its stages.
      score: trains settings.
      valid: whether an extended range may take this setting.
    """

    def __init__(
        self, axes: Sequence[Axis], plan: Plan, score: Score, valid: Callable[[Setting], bool] = lambda setting: True
    ):
        self.axes, self.plan, self.valid, self.train = axes, plan, valid, score
        self.losses: dict[str, dict[Setting, float]] = {stage: {} for stage in STAGES}

    def run(self) -> Setting:
        """Returns the best setting."""
        if self.plan.is_exhaustive:
            self.score(REFINE, everything(self.axes))
            center = self.best(REFINE)
        else:
            self.score(SCREEN, spread(self.axes, max(1, math.floor(self.plan.screened * SPREAD))))
            self.improve(SCREEN, self.best(SCREEN))
            promoted = self.promoted()
            self.score(HALVE, promoted[: self.plan.halved])
            center = self.expected(promoted[0])
        self.improve(REFINE, center)
        return self.best(REFINE)

    def score(self, stage: str, settings: Sequence[Setting]) -> None:
        """Trains new settings, as many as the stage may have."""
        known, (most, steps) = self.losses[stage], self.plan.lengths[stage]
        new = [setting for setting in dict.fromkeys(settings) if setting not in known][: most - len(known)]
        if new:
            known |= zip(new, self.train(stage, new, steps), strict=True)

    def improve(self, stage: str, center: Setting) -> None:
        """Moves to better settings nearby until there is none, or the stage has no run left."""
        while True:
            self.score(stage, self.around(center))
            self.score(stage, self.combined(stage, center))
            if self.best(stage) == center:
                self.score(stage, self.diagonal(stage, center))
            if not self.has_room(stage) or self.best(stage) == center:
                return
            center = self.best(stage)

    def combined(self, stage: str, center: Setting) -> list[Setting]:
        """The step to the better neighbor along all keywords at once, if several have a better one."""
        losses = self.losses[stage]
        best = [min(pair, key=losses.__getitem__) for pair in self.trained(stage, center) if pair]
        better = [one for one in best if losses[one] < losses[center]]
        return self.accepted([moved(center, better)]) if len(better) > 1 else []

    def diagonal(self, stage: str, center: Setting) -> list[Setting]:
        """Steps along two keywords at once, in the order of the sum of the losses of their single steps."""
        losses, pairs = self.losses[stage], self.trained(stage, center)
        steps = [(a, b) for i, pair in enumerate(pairs) for a in pair for other in pairs[i + 1 :] for b in other]
        steps.sort(key=lambda step: losses[step[0]] + losses[step[1]])
        return self.accepted([moved(center, step) for step in steps])

    def trained(self, stage: str, center: Setting) -> list[list[Setting]]:
        """The trained neighbors along each keyword."""
        losses = self.losses[stage]
        return [[one for one in pair if one in losses] for pair in neighbors(self.axes, center).values()]

    def has_room(self, stage: str) -> bool:
        """Whether the budget of a stage allows another setting."""
        return len(self.losses[stage]) < self.plan.lengths[stage][0]

    def best(self, stage: str) -> Setting:
        """The setting with the lowest loss."""
        return self.ranked(stage)[0]

    def ranked(self, stage: str) -> list[Setting]:
        """The settings of a stage, the lowest loss first."""
        losses = self.losses[stage]
        return sorted(losses, key=losses.__getitem__)

    @property
    def rate(self) -> int | None:
        """The position of the learning rate among the keywords, if it is a range."""
        return next((i for i, axis in enumerate(self.axes) if axis.name == "lr" and axis.scale == LOG), None)

    def rate_losses(self, i: int) -> dict[int, float]:
        """The lowest screened loss at each learning rate."""
        losses = self.losses[SCREEN]
        return {at: min(losses[one] for one in losses if one[i] == at) for at in sorted({one[i] for one in losses})}

    def promoted(self) -> list[Setting]:
        """The screened settings in the order in which they get longer runs.

        Short runs prefer high learning rates. Therefore a higher one counts as better only if its loss is lower by
        ``TOLERANCE`` of the range of the losses over the learning rates, for each step of the grid. After the first
        setting come its variants at the next lower learning rates.
        """
        losses, i = self.losses[SCREEN], self.rate
        if i is None:
            return self.ranked(SCREEN)
        margin = TOLERANCE * loss_range(list(self.rate_losses(i).values()))
        first, *others = sorted(losses, key=lambda one: losses[one] + margin * one[i])
        lower = [(*first[:i], first[i] - by, *first[i + 1 :]) for by in range(1, LOWER + 1)]
        return [first, *self.accepted(lower), *others]

    def expected(self, first: Setting) -> Setting:
        """The setting from which the full runs start: the best half run, at the learning rate expected for full runs.

        The learning rate is extrapolated as in :func:`minigpt_flax.compare.rate_search.search`.
        """
        i, halves = self.rate, self.losses[HALVE]
        line = [one for one in halves if i is not None and (*one[:i], first[i], *one[i + 1 :]) == first]
        if i is None or len(line) < 2:
            return self.best(HALVE)
        place = lambda index: math.log10(self.axes[i].value(index) or 1.0)
        screened = self.rate_losses(i)
        short = lowest_good([place(at) for at in screened], list(screened.values()))
        temperature = TEMPERATURE * loss_range(list(screened.values()))
        long = weighted_mean([place(one[i]) for one in line], [halves[one] for one in line], temperature)
        target = long - min(max((short - long) / DOUBLINGS, 0.0), LARGEST) * math.log2(LONG)
        near = range(min(one[i] for one in line) - 1, first[i] + 1)
        at = min(near, key=lambda index: abs(place(index) - target))
        return (*first[:i], at, *first[i + 1 :])

    def around(self, center: Setting) -> list[Setting]:
        """A setting and its neighbors along every keyword."""
        return [center, *self.accepted([one for pair in neighbors(self.axes, center).values() for one in pair if one])]

    def accepted(self, settings: Sequence[Setting]) -> list[Setting]:
        """The settings that the optimizer accepts."""
        return [setting for setting in settings if self.valid(setting)]


def moved(center: Setting, steps: Sequence[Setting]) -> Setting:
    """A setting after several steps, each to a neighbor of it.

    >>> moved((2, 1), [(3, 1), (2, 0)])
    (3, 0)
    """
    return tuple(at + sum(step[i] - at for step in steps) for i, at in enumerate(center))


def neighbors(axes: Sequence[Axis], center: Setting) -> dict[str, tuple[Setting | None, Setting | None]]:
    """The settings with the next lower and the next higher value of each keyword; None beyond the end."""

    def at(i: int, by: int) -> Setting | None:
        index = center[i] + by
        return None if axes[i].value(index) is None else (*center[:i], index, *center[i + 1 :])

    return {axis.name: (at(i, -1), at(i, 1)) for i, axis in enumerate(axes)}


def everything(axes: Sequence[Axis]) -> list[Setting]:
    """Every setting of the grid."""
    return list(itertools.product(*(range(len(axis.values)) for axis in axes)))


def spread(axes: Sequence[Axis], count: int) -> list[Setting]:
    """Settings that cover the grid evenly, the middle one first.

    They are the points of an additive recurrence with the generalized golden ratio, a low-discrepancy sequence.

    >>> from minigpt_flax.tune.axes import parse
    >>> spread([parse("a=1,2,3"), parse("b=1,2,3")], 4)
    [(1, 1), (0, 0), (0, 1), (2, 0)]
    """
    if count >= grid_size(axes):
        return everything(axes)
    ratio = golden(len(axes))
    found: dict[Setting, None] = {}
    for k in itertools.count():
        places = [(0.5 + k * ratio**-power) % 1 for power in range(1, len(axes) + 1)]
        found[tuple(int(place * len(axis.values)) for place, axis in zip(places, axes, strict=True))] = None
        if len(found) == count:
            return list(found)
    raise AssertionError


def golden(dimensions: int) -> float:
    """The root of ``x ** (dimensions + 1) = x + 1``.

    >>> round(golden(1), 3), round(golden(2), 3)
    (1.618, 1.325)
    """
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (dimensions + 1))
    return root
