"""Refuses hyperparameters out of range, by name.

Only numbers are checked. A traced array, whose value nobody knows while tracing, a schedule and None pass through.
"""

from __future__ import annotations

from numbers import Real
from typing import Any


def check_nonnegative(**given: Any) -> None:
    """Refuses a number below 0.

    Raises:
      ValueError: which argument was given what, and what is possible.

    >>> check_nonnegative(eps=1e-8, learning_rate=-0.1)
    Traceback (most recent call last):
    ValueError: learning_rate=-0.1 is out of range: give a number >= 0
    """
    for name, value in given.items():
        if isinstance(value, Real) and not float(value) >= 0:
            raise ValueError(f"{name}={value} is out of range: give a number >= 0")


def check_at_least_one(**given: Any) -> None:
    """Refuses a number below 1, where things are counted: steps, ranks.

    Raises:
      ValueError: which argument was given what, and what is possible.

    >>> check_at_least_one(rank=0)
    Traceback (most recent call last):
    ValueError: rank=0 is out of range: give at least 1
    """
    for name, value in given.items():
        if isinstance(value, Real) and not float(value) >= 1:
            raise ValueError(f"{name}={value} is out of range: give at least 1")


def check_fraction(**given: Any) -> None:
    """Refuses a number outside [0, 1), where the decays of averages lie.

    Raises:
      ValueError: which argument was given what, and what is possible.

    >>> check_fraction(b1=0.9, b2=1.0)
    Traceback (most recent call last):
    ValueError: b2=1.0 is out of range: give a number in [0, 1)
    """
    for name, value in given.items():
        if isinstance(value, Real) and not 0 <= float(value) < 1:
            raise ValueError(f"{name}={value} is out of range: give a number in [0, 1)")


def check_length(length: int, **given: Any) -> None:
    """Refuses a sequence of another length.

    Raises:
      ValueError: which argument was given what, and what is possible.

    >>> check_length(2, betas=(0.9,))
    Traceback (most recent call last):
    ValueError: betas=(0.9,) has a wrong length: give 2 numbers
    """
    for name, value in given.items():
        if len(value) != length:
            raise ValueError(f"{name}={value} has a wrong length: give {length} numbers")
