"""Runs a library's table: one result per recording."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from jaxopt_conformance.checking import TOLERANCE, compare, replay
from jaxopt_conformance.explaining import explained
from jaxopt_conformance.libraries import Library
from jaxopt_conformance.recordings import Recording, Tree, load, resolve


@dataclass(frozen=True)
class Result:
    """One row of a library's table.

    Attributes:
      recording: name of the recording.
      optimizer: the authors' name.
      reference: the authors' project.
      call: what built the library's optimizer.
      deviation: largest deviation over the distance moved; None if the call failed.
      first_step: the first step that exceeds the tolerance; None if none does.
      leaf: the parameter with the largest deviation.
      explanation: the convention that explains the departure, confirmed by a replay; "" if none does.
      documented: what the library's documentation says about the departure.
      error: the exception of a call that failed.
    """

    recording: str
    optimizer: str
    reference: str
    call: str
    deviation: float | None = None
    first_step: int | None = None
    leaf: str = ""
    explanation: str = ""
    documented: str = ""
    error: str = ""

    @property
    def verdict(self) -> str:
        """``agrees``, ``departs`` or ``fails``."""
        return "fails" if self.error else "agrees" if self.first_step is None else "departs"


def run(library: Library, only: Iterable[str] = (), tolerance: float = TOLERANCE) -> Iterator[Result]:
    """Replay the optimizers of a library.

    Args:
      library: the table.
      only: recordings; all of the table if empty.
      tolerance: largest deviation, relative to the distance moved.

    Raises:
      KeyError: if the table has no call for a recording.
    """
    for name in [resolve(name) for name in only] or library.calls:
        if name not in library.calls:
            raise KeyError(f"{library.name} has no call for {name!r}; it has {', '.join(library.calls)}")
        yield _row(library, load(name), tolerance)


def _row(library: Library, recording: Recording, tolerance: float) -> Result:
    """One replay, with the explanation of a departure."""
    name, call = recording.name, " ".join(library.calls[recording.name].split())
    result = Result(name, recording.optimizer, recording.reference["project"], call)
    try:
        trajectory = _replayed(library, call, recording)
    except Exception as error:  # whatever a library raises is its result
        return dataclasses.replace(result, error=f"{type(error).__name__}: {error}".splitlines()[0][:200])
    report = compare(recording, trajectory, tolerance)
    if not report.agrees:
        found = (explained(report, recording, trajectory).explanation, _alternative(library, recording, tolerance))
        report = dataclasses.replace(report, explanation="; ".join(filter(None, found)))
    return dataclasses.replace(
        result,
        deviation=report.deviation,
        first_step=report.first_step,
        leaf=report.leaf,
        explanation=report.explanation,
        documented="" if report.agrees else library.documented.get(name, ""),
    )


def _replayed(library: Library, call: str, recording: Recording) -> Tree:
    """The trajectory of a call, without the library's warnings and with its prints on stderr."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        return replay(library.build(call, recording), recording)


def _alternative(library: Library, recording: Recording, tolerance: float) -> str:
    """The first of the library's own keywords that reproduces the recording."""
    for description, call in library.alternatives.get(recording.name, {}).items():
        if compare(recording, _replayed(library, call, recording), tolerance).agrees:
            return f"agrees with {description}"
    return ""


def about(library: Library) -> dict[str, str]:
    """The versions that a result belongs to; its first entry is the library's name."""
    frameworks = {"optax": ("jax", "optax"), "torch": ("torch",), "keras": ("jax",)}[library.adapter]
    others = {name: version(name) for name in (*frameworks, "numpy")}
    return {"library": library.name} | library.versions | others | {"python": platform.python_version()}
