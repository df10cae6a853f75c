"""Ranges of the numbers on the command line and in configurations. Imports no JAX."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from minigpt_flax.errors import UserError
from minigpt_flax.text import shortened

INT32 = 2**31 - 1  # maximum size of an axis and maximum token id


@dataclass(frozen=True)
class Bound:
    """A range of numbers, usable as an argument type of ``argparse``.

    Attributes:
      low: smallest number.
      high: largest number.
      whole: whether only whole numbers are allowed.
      above: whether ``low`` itself is excluded.
      below: whether ``high`` itself is excluded.
    """

    low: int | float
    high: int | float
    whole: bool = False
    above: bool = False
    below: bool = False

    def problem(self, value: object) -> str | None:
        """Return the problem with a value, as the end of a sentence; None if it is in range.

        >>> Bound(1, 10, whole=True).problem(0), Bound(0, 1, below=True).problem(1.0), Bound(0, 1).problem(0.5)
        ('must be at least 1', 'must be below 1', None)
        """
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float) or value != value:
            return f"must be a {self._kind}"
        if self.above and value == self.low or not value >= self.low:
            return f"must be {'above' if self.above else 'at least'} {_spell(self.low)}"
        if self.below and value == self.high or not value <= self.high:
            return f"must be {'below' if self.below else 'at most'} {_spell(self.high)}"
        return None

    def check(self, name: str, value: object) -> None:
        """Refuse a value out of range.

        Args:
          name: name of the number in the message, such as ``--steps``.
          value: the number.

        Raises:
          UserError: the value is not a number, or is out of range.
        """
        problem = self.problem(value)
        if problem is not None:
            raise UserError(f"{name} {problem}, got {shortened(repr(value))}")

    def __call__(self, text: str) -> int | float:
        """Parse a number of the command line."""
        value = whole(text) if self.whole else number(text)
        problem = self.problem(value)
        if problem is not None:
            raise argparse.ArgumentTypeError(f"{problem}, got {shortened(text)}")
        return value

    @property
    def _kind(self) -> str:
        return "whole number" if self.whole else "number"


@dataclass(frozen=True)
class BoundOrWord:
    """An argument type of ``argparse``: a number in a range, or a word such as ``auto``."""

    bound: Bound
    word: str

    def __call__(self, text: str) -> int | float | str:
        """Parse the text of the command line."""
        return text if text == self.word else self.bound(text)


def whole(text: str) -> int:
    """Parse a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number such as 100, got {shortened(repr(text))}") from None


def number(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number such as 0.001, got {shortened(repr(text))}") from None


def _spell(limit: int | float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


COUNT = Bound(1, 10**9, whole=True)  # numbers and intervals of steps
STEP = Bound(0, 10**9, whole=True)  # number of completed steps
SIZE = Bound(1, INT32, whole=True)  # axes of arrays; the memory check refuses sizes that are too large for the machine
SEED = Bound(0, 2**63 - 1, whole=True)
RATE = Bound(0, 1e38)  # learning rates; finite in float32
TOKENS = Bound(1, 10**15, whole=True)  # tokens per step
DRAWN = Bound(0, 10**6, whole=True)  # tokens of a sample
NORM = Bound(0, 1e30, above=True)  # gradient norms
