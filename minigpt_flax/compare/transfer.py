"""How the best learning rate changes with the width, for every optimizer and parametrization. Imports no JAX.

The best learning rate of a width is the vertex of the parabola through the lowest mean loss and its two neighbors, over
the logarithm of the learning rate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from minigpt_flax.compare.comparison import Comparison
from minigpt_flax.compare.statistics import CandidateRuns, edge, outcomes
from minigpt_flax.train.config.run_config import STANDARD

Losses = Mapping[float, float]  # learning rate -> final loss, infinite if a run diverged; ascending


class Optimum(NamedTuple):
    """The best learning rate, and the loss expected there."""

    lr: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """The final losses of one optimizer at one width.

    Attributes:
      width: of the model.
      by_seed: seed -> losses of the seed's ended runs.
      missing: number of runs that have not ended.
    """

    width: int
    by_seed: Mapping[int, Losses]
    missing: int

    @property
    def losses(self) -> dict[float, float]:
        """Mean loss over the seeds, of the learning rates that all seeds have."""
        curves = list(self.by_seed.values())
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        return {rate: statistics.fmean(curve[rate] for curve in curves) for rate in common}

    @property
    def optimum(self) -> Optimum | None:
        """The best learning rate of the mean; None if it is not decided."""
        return optimum_of(self.losses)

    @property
    def edge(self) -> str:
        """``lowest`` or ``highest`` if the best learning rate is at that end of those tried, else empty."""
        losses = self.losses
        best = min(losses, key=losses.__getitem__, default=None)
        return "" if best is None or math.isinf(losses[best]) else edge(best, list(losses))


@dataclass(frozen=True)
class Family:
    """One optimizer in one parametrization, at all widths.

    Attributes:
      name: as it is printed.
      spec: the optimizer's complete spec.
      parametrization: its spec.
      curves: narrowest first.
    """

    name: str
    spec: str
    parametrization: str
    curves: Sequence[Curve]

    def shift(self, curve: Curve) -> float | None:
        """Octaves from the best learning rate of the narrowest width to that of a curve; None if not decided."""
        return shift_between(self.curves[0].losses, curve.losses)

    def shifts(self, curve: Curve) -> list[float | None]:
        """:meth:`shift` for every seed."""
        first = self.curves[0].by_seed
        return [shift_between(first[seed], losses) for seed, losses in curve.by_seed.items() if seed in first]

    def regret(self, curve: Curve) -> float | None:
        """Loss at the best tried learning rate of the narrowest width, above the lowest; None if not decided."""
        base, losses = self.curves[0].losses, curve.losses
        if optimum_of(base) is None or optimum_of(losses) is None:
            return None
        rate = min(base, key=base.__getitem__)
        return losses[rate] - min(losses.values()) if rate in losses else None


def shift_between(base: Losses, other: Losses) -> float | None:
    """Octaves between two best learning rates; None if one is not decided.

    >>> shift_between({1.0: 2.0, 2.0: 1.0, 4.0: 2.0}, {1.0: 3.0, 2.0: 2.0, 4.0: 1.0, 8.0: 2.0})
    1.0
    """
    first, last = optimum_of(base), optimum_of(other)
    return None if first is None or last is None else math.log2(last.lr / first.lr)


def optimum_of(losses: Losses) -> Optimum | None:
    """The vertex of the parabola through the lowest loss and its neighbors.

    None if the lowest loss is at an end, or infinite. Beside a learning rate that diverged, it is the best one tried.

    >>> optimum_of({1.0: 2.0, 2.0: 1.0, 4.0: 2.0}), optimum_of({1.0: 1.0, 2.0: 2.0, 4.0: 3.0})
    (Optimum(lr=2.0, loss=1.0), None)
    """
    rates = sorted(losses)
    if len(rates) < 3:
        return None
    middle = min(range(len(rates)), key=lambda i: losses[rates[i]])
    if middle in (0, len(rates) - 1) or not math.isfinite(losses[rates[middle]]):
        return None
    low, best, high = rates[middle - 1 : middle + 2]
    if not (math.isfinite(losses[low]) and math.isfinite(losses[high])):
        return Optimum(best, losses[best])
    return _vertex(*((math.log2(rate), losses[rate]) for rate in (low, best, high)))


def _vertex(low: tuple[float, float], best: tuple[float, float], high: tuple[float, float]) -> Optimum:
    """The lowest point of a parabola through three points (log2 rate, loss) of which the middle one is lowest."""
    left, right = low[0] - best[0], high[0] - best[0]
    down, up = (low[1] - best[1]) / left, (high[1] - best[1]) / right
    curvature = (up - down) / (right - left)
    slope = down - curvature * left
    at = -slope / (2 * curvature) if curvature else 0.0
    return Optimum(2 ** (best[0] + at), best[1] + slope * at + curvature * at * at)


@dataclass(frozen=True)
class Transfer:
    """The result of a comparison over widths; ``print`` shows it.

    Attributes:
      families: every optimizer in every parametrization.
      steps: length of the runs.
      seeds: of the runs.
    """

    families: Sequence[Family]
    steps: int
    seeds: Sequence[int]


def transfer_of(comparison: Comparison, candidates: Sequence[CandidateRuns]) -> Transfer:
    """The result of a comparison over widths, from the runs that have ended.

    Args:
      comparison: what is compared.
      candidates: its runs so far.
    """
    planned = comparison.rates_per_candidate * len(comparison.seeds)
    groups: dict[tuple[str, ...], list[tuple[int, CandidateRuns]]] = {}
    for candidate, runs in zip(comparison.candidates, candidates, strict=True):
        key = tuple(candidate.given.get(name, "") for name in ("opt", "schedule", "parametrization"))
        groups.setdefault(key, []).append((candidate.given["width"], runs))
    families = []
    for (*_, parametrization), members in groups.items():
        width, first = members[0]
        name = first.name.removesuffix(f"width {width}").strip()
        spec = next((run.config["opt"] for _, each in members for run in each.runs), "")
        curves = [_curve(size, each, comparison.seeds, planned) for size, each in members]
        families.append(Family(name or spec, spec, parametrization or STANDARD, curves))
    return Transfer(families, comparison.steps, comparison.seeds)


def _curve(width: int, candidate: CandidateRuns, seeds: Sequence[int], planned: int) -> Curve:
    by_seed = {}
    for seed in seeds:
        found = outcomes({run.config["lr"]: run for run in candidate.runs if run.config["seed"] == seed})
        by_seed[seed] = dict(sorted(found.items()))
    return Curve(width, by_seed, planned - sum(map(len, by_seed.values())))
