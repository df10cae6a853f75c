"""Recorded trajectories of the authors' code: start parameters, gradients, parameters after each step."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tree = dict[str, np.ndarray]  # name of a parameter -> array

PACKAGE = Path(__file__).parent
INSTALLED = PACKAGE / "recordings"
IN_THE_REPOSITORY = PACKAGE.parents[1] / "tests" / "golden" / "optimizers"


class Hyperparameters(dict):
    """The hyperparameters of a recording; ``h["lr"]`` and ``h.lr`` are the same."""

    def __getattr__(self, name: str) -> Any:
        """The value under this name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name!r} is not recorded; recorded: {', '.join(self)}") from None


@dataclass(frozen=True, eq=False)
class Recording:
    """One run of an optimizer's authors' code.

    Attributes:
      name: its key in the index.
      optimizer: the authors' name of the optimizer.
      hyperparameters: as they were passed to the authors' code.
      reference: project, version, file and symbol of that code.
      notes: the conventions of that code.
      trajectory: name of a parameter -> array (steps + 1, *shape) whose row t holds the parameter after step t.
      grads: name of a parameter -> array (steps, *shape).
      sensitivity: name of a parameter -> how far rounding errors in the gradients move the recorded run.
      rates: the learning rate of each step, where the run has a schedule.
    """

    name: str
    optimizer: str
    hyperparameters: Hyperparameters
    reference: Mapping[str, str]
    notes: tuple[str, ...]
    trajectory: Tree
    grads: Tree
    sensitivity: Mapping[str, float]
    rates: np.ndarray | None = None

    @property
    def start(self) -> Tree:
        """Copies of the parameters before the first step."""
        return {name: path[0].copy() for name, path in self.trajectory.items()}

    @property
    def steps(self) -> int:
        """The number of recorded steps."""
        return len(next(iter(self.grads.values())))

    @property
    def distance(self) -> dict[str, float]:
        """The largest move of an entry of each parameter from its start."""
        return {name: float(np.abs(path - path[0]).max()) for name, path in self.trajectory.items()}


def folder() -> Path:
    """Where the recordings lie: in the installed package, or in the repository."""
    for place in (INSTALLED, IN_THE_REPOSITORY):
        if (place / "index.json").is_file():
            return place
    raise FileNotFoundError(f"no recordings in {INSTALLED} or {IN_THE_REPOSITORY}; install the package from a clone")


@functools.cache
def _index() -> dict[str, dict[str, Any]]:
    """The entries of the recordings whose file is there."""
    entries = json.loads((folder() / "index.json").read_text("utf-8"))["configs"]
    return {name: entry for name, entry in entries.items() if (folder() / f"{name}.npz").is_file()}


def names() -> list[str]:
    """The names of all recordings."""
    return list(_index())


def resolve(name: str) -> str:
    """The recording that a short name stands for: ``"adamw"`` is ``torch_adamw``, ``"muon"`` is ``muon_f32``.

    Raises:
      KeyError: if there is none; the message has the nearest names.
    """
    for full in (name, f"{name}_f32", f"torch_{name}"):
        if full in _index():
            return full
    near = difflib.get_close_matches(name, names(), 3, 0.4)
    raise KeyError(f"no recording {name!r}; nearest: {', '.join(near)}; `--list` prints all {len(names())}")


def load(name: str) -> Recording:
    """Read a recording.

    Raises:
      KeyError: for a name that isn't in the index.
    """
    name = resolve(name)
    entry = _index()[name]
    with np.load(folder() / "problem.npz") as problem, np.load(folder() / f"{name}.npz") as run:
        trajectory = {leaf: run[leaf] for leaf in entry["leaves"]}
        steps = len(next(iter(trajectory.values()))) - 1
        # A run whose gradients depend on its parameters has its own.
        rates = run["lr"] if "lr" in run else None
        grads = {leaf: (run if f"grads/{leaf}" in run else problem)[f"grads/{leaf}"][:steps] for leaf in trajectory}
    return Recording(
        name,
        entry["optimizer"],
        _frozen(entry["hyperparameters"]),
        entry["reference"],
        tuple(entry.get("notes", ())),
        trajectory,
        grads,
        entry.get("rounding_sensitivity", {}),
        rates,
    )


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, its objects as :class:`Hyperparameters`, ``"inf"`` as a number."""
    if isinstance(value, dict):
        return Hyperparameters({key: _frozen(item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return float("inf") if value == "inf" else value
