"""What a study of a run found: sentences for a person, numbers for a program, a picture for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """The result of one study.

    Attributes:
      sentences: what was found and what it means, each a line or two.
      numbers: what was measured, as JSON knows it.
      draw: fills an empty figure.
    """

    sentences: list[str]
    numbers: dict[str, Any]
    draw: Callable[[Figure], None]
