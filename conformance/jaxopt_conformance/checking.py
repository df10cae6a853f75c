"""Replays an optimizer on a recording and reports where it departs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxopt_conformance.recordings import Hyperparameters, Recording, Tree, load

TOLERANCE = 1e-4


class Optimizer(Protocol):
    """What a recording is replayed on; parameters and gradients are dicts of NumPy arrays with the same keys."""

    def init(self, params: Tree) -> Any:
        """The optimizer's state before the first step."""
        ...

    def step(self, params: Tree, grads: Tree, state: Any) -> tuple[Tree, Any]:
        """The parameters and the state after one step."""
        ...


@dataclass(frozen=True)
class Report:
    """How an optimizer compares with a recording.

    Attributes:
      recording: name of the recording.
      deviation: largest deviation of a parameter at any step, over the distance that the authors' run moves.
      tolerance: the largest deviation that rounding explains.
      first_step: the first step (from 1) that exceeds the tolerance; None if none does.
      leaf: the parameter with the largest deviation.
      explanation: the conventions that explain the departure, "" if none is needed or known.
    """

    recording: str
    deviation: float
    tolerance: float
    first_step: int | None
    leaf: str
    explanation: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the whole trajectory is within the tolerance."""
        return self.first_step is None

    def __str__(self) -> str:
        """One line."""
        if self.agrees:
            return f"{self.recording}: agrees (largest deviation {self.deviation:.1e} of the distance moved)"
        why = f"; {self.explanation}" if self.explanation else ""
        where = f"from step {self.first_step} on, most at {self.leaf}"
        return f"{self.recording}: departs by {self.deviation:.1e} of the distance moved, {where}{why}"


def replay(optimizer: Optimizer, recording: Recording) -> Tree:
    """Take the recorded steps.

    Returns:
      Name of a parameter -> array (steps + 1, *shape), in the form of ``recording.trajectory``.
    """
    params = recording.start
    state = optimizer.init(params)
    path = [params]
    for t in range(recording.steps):
        grads = {name: grad[t].copy() for name, grad in recording.grads.items()}
        params, state = optimizer.step({name: p.copy() for name, p in params.items()}, grads, state)
        path.append(params)
    return {name: np.stack([np.asarray(params[name]) for params in path]) for name in recording.trajectory}


def compare(recording: Recording, trajectory: Mapping[str, np.ndarray], tolerance: float = TOLERANCE) -> Report:
    """Compare a replayed trajectory with the recorded one.

    Args:
      recording: the authors' run.
      trajectory: what :func:`replay` returned.
      tolerance: relative to the distance moved. What rounding explains is added: a unit in the last place of the
        largest parameter per step, and ten times the recorded sensitivity to rounding in the gradients.
    """
    # One row for each parameter, one column for each step.
    moved, names = recording.distance, list(recording.trajectory)
    allowed = [tolerance + _rounding(recording, name) / moved[name] for name in names]
    sizes = np.array([_largest(trajectory[name] - recording.trajectory[name]) / moved[name] for name in names])
    worst = int(sizes.max(axis=1).argmax())
    late = np.flatnonzero((sizes > np.array(allowed)[:, None]).any(axis=0))
    first = int(late[0]) if late.size else None
    return Report(recording.name, float(sizes.max()), allowed[worst], first, names[worst])


def check(
    name: str,
    make: Callable[[Hyperparameters], Optimizer],
    tolerance: float = TOLERANCE,
    explain: bool = True,
) -> Report:
    """Compare an optimizer with its authors' code.

    Args:
      name: a recording, or a short name: ``"adamw"`` is ``torch_adamw``, ``"muon"`` is ``muon_f32``.
      make: makes the optimizer from the hyperparameters of the recording.
      tolerance: largest deviation, relative to the distance that the authors' run moves.
      explain: whether to look for the conventions that explain a departure.

    Returns:
      The report; ``report.agrees`` is the verdict, ``print(report)`` one line.
    """
    recording = load(name)
    trajectory = replay(make(recording.hyperparameters), recording)
    report = compare(recording, trajectory, tolerance)
    if report.agrees or not explain:
        return report
    from jaxopt_conformance.explaining import explained  # imports this module

    return explained(report, recording, trajectory)


def _rounding(recording: Recording, name: str) -> float:
    """How far rounding moves a float32 trajectory."""
    last_place = np.spacing(np.abs(recording.trajectory[name]).max())
    return recording.steps * float(last_place) + 10 * recording.sensitivity.get(name, 0.0)


def _largest(difference: np.ndarray) -> np.ndarray:
    """The largest absolute entry at each step; infinity where an entry isn't finite."""
    flat = np.abs(difference.reshape(len(difference), -1).astype(np.float64)).max(axis=1)
    return np.where(np.isfinite(flat), flat, np.inf)
