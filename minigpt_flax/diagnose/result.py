"""The result of a study: sentences to read, numbers to process, and a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

Report = Callable[[str, int, int], None]
"""``(task, done, total)``: called after each part of a long computation."""


@dataclass(frozen=True)
class StudyResult:
    """The result of one study.

    Attributes:
      sentences: the findings and their interpretation.
      numbers: the measurements, as JSON values.
      draw: draws the measurements into an empty figure.
    """

    sentences: list[str]
    numbers: dict[str, Any]
    draw: Callable[[Figure], None]
