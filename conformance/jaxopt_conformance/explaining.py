"""Finds the conventions that explain a departure."""

from __future__ import annotations

from jaxopt_conformance.checking import Report
from jaxopt_conformance.recordings import Recording, Tree


def explained(report: Report, recording: Recording, trajectory: Tree) -> Report:
    """The report with its explanation."""
    del recording, trajectory
    return report
