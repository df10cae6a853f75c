"""Range checks for hyperparameters; errors name the argument.

Only numbers are checked. Traced arrays (their value is unknown while tracing), schedules and None pass unchecked.
"""

from __future__ import annotations

from numbers import Real
from typing import Any


def check_nonnegative(**arguments: Any) -> None:
    """Rejects numbers below 0.

    Raises:
      ValueError: a number is out of range; the message names the argument and the range.

    >>> check_nonnegative(eps=1e-8, learning_rate=-0.1)
    Traceback (most recent call last):
    ValueError: learning_rate=-0.1 is out of range: give a number >= 0
    """
    for name, value in arguments.items():
        if isinstance(value, Real) and not float(value) >= 0:
            raise ValueError(f"{name}={value} is out of range: give a number >= 0")


def check_at_least_one(**arguments: Any) -> None:
    """Rejects counts (steps, ranks) below 1.

    Raises:
      ValueError: a number is out of range; the message names the argument and the range.

    >>> check_at_least_one(rank=0)
    Traceback (most recent call last):
    ValueError: rank=0 is out of range: give at least 1
    """
    for name, value in arguments.items():
        if isinstance(value, Real) and not float(value) >= 1:
            raise ValueError(f"{name}={value} is out of range: give at least 1")


def check_fraction(**arguments: Any) -> None:
    """Rejects numbers outside [0, 1), the range of the decay of an average.

    Raises:
      ValueError: a number is out of range; the message names the argument and the range.

    >>> check_fraction(b1=0.9, b2=1.0)
    Traceback (most recent call last):
    ValueError: b2=1.0 is out of range: give a number in [0, 1)
    """
    for name, value in arguments.items():
        if isinstance(value, Real) and not 0 <= float(value) < 1:
            raise ValueError(f"{name}={value} is out of range: give a number in [0, 1)")


def check_length(length: int, **arguments: Any) -> None:
    """Rejects sequences of another length.

    Raises:
      ValueError: a sequence has another length; the message names the argument.

    >>> check_length(2, betas=(0.9,))
    Traceback (most recent call last):
    ValueError: betas=(0.9,) has the wrong length: give 2 numbers
    """
    for name, value in arguments.items():
        if len(value) != length:
            raise ValueError(f"{name}={value} has the wrong length: give {length} numbers")
