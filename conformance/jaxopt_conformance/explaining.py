"""Finds the conventions that explain a departure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxopt_conformance.checking import Report, replay
from jaxopt_conformance.recordings import Recording, Tree
from jaxopt_conformance.rules import ALTERNATIVES, RULES, NumPyOptimizer

MOST = 4  # conventions that are changed together
NEGLIGIBLE = 1e-4  # the part of a departure that may stay unexplained


def explained(report: Report, recording: Recording, trajectory: Tree) -> Report:
    """The report with its explanation.

    The recording's rule is replayed in NumPy with one convention changed, then with two, and so on, until a replay
    reproduces the trajectory. An explanation is therefore always confirmed.
    """
    rule = RULES.get(recording.name)
    if rule is None or not math.isfinite(report.deviation):
        return report
    base = {**(rule.function.__kwdefaults__ or {}), **rule.keywords(recording.hyperparameters)}
    for changes in _changes(ALTERNATIVES[rule.function], base):
        deviations = [_distance(recording, rule.function, {**base, **change}, trajectory) for change, _ in changes]
        best = int(np.argmin(deviations))
        if deviations[best] <= max(report.tolerance, NEGLIGIBLE * report.deviation):
            return dataclasses.replace(report, explanation="; ".join(changes[best][1]))
    return report


def _changes(alternatives: Any, base: dict[str, Any]) -> Iterator[list[tuple[dict[str, Any], list[str]]]]:
    """For each number of changed conventions, all changes with their descriptions."""
    choices = [
        [(name, value, text) for value, text in values.items() if base.get(name) != value]
        for name, values in alternatives.items()
    ]
    for count in range(1, MOST + 1):
        found = [
            ({name: value for name, value, _ in chosen}, [text for *_, text in chosen])
            for some in itertools.combinations(choices, count)
            for chosen in itertools.product(*some)
        ]
        if found:
            yield found


def _distance(recording: Recording, function: Any, keywords: dict[str, Any], trajectory: Tree) -> float:
    """The largest deviation of a NumPy rule from a trajectory, over the distance that the authors' run moves."""
    with np.errstate(all="ignore"):
        ours = replay(NumPyOptimizer(function, **keywords), recording)
    sizes = [np.abs(ours[name] - trajectory[name]).max() / moved for name, moved in recording.distance.items()]
    largest = float(max(sizes))
    return largest if math.isfinite(largest) else math.inf
