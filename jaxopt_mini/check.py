"""Range checks for hyperparameters; errors name the argument.

Only numbers are checked. Traced arrays (their value is unknown while tracing), schedules and None pass unchecked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from jax.core import Tracer


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


def check_steps(**arguments: Any) -> None:
    """Rejects what isn't a number of steps: an integer from 1.

    Raises:
      ValueError: a value isn't one; the message names the argument and the range.

    >>> check_steps(sync_period=2.5)
    Traceback (most recent call last):
    ValueError: sync_period=2.5 is out of range: give an integer >= 1
    """
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value} is out of range: give an integer >= 1")


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


def check_decay(**arguments: Any) -> None:
    """Rejects numbers outside [0, 1], the range of the decay of an average or, for 1, of a sum.

    Raises:
      ValueError: a number is out of range; the message names the argument and the range.

    >>> check_decay(shampoo_beta=1.5)
    Traceback (most recent call last):
    ValueError: shampoo_beta=1.5 is out of range: give a number in [0, 1]
    """
    for name, value in arguments.items():
        if isinstance(value, Real) and not 0 <= float(value) <= 1:
            raise ValueError(f"{name}={value} is out of range: give a number in [0, 1]")


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


def check_static(**arguments: Any) -> None:
    """Rejects traced numbers, where the shapes of a state or the number of operations depend on the value.

    Raises:
      ValueError: a number is traced; the message names the argument.

    >>> check_static(rank=4)
    """
    for name, value in arguments.items():
        if isinstance(value, Tracer):
            raise ValueError(
                f"{name} must be known when the step is compiled, got a traced array: "
                f'pass static_args="{name}" if this is Optax\'s inject_hyperparams'
            )


def check_function(**arguments: Any) -> None:
    """Rejects numbers in the place of functions.

    Raises:
      ValueError: an argument isn't callable; the message names it.

    >>> check_function(bound=0.5)
    Traceback (most recent call last):
    ValueError: bound=0.5 is not a function: if this is Optax's inject_hyperparams, pass static_args="bound"
    """
    for name, value in arguments.items():
        if not callable(value):
            raise ValueError(
                f'{name}={value} is not a function: if this is Optax\'s inject_hyperparams, pass static_args="{name}"'
            )


def check_name(name: str, known: Iterable[str], what: str) -> None:
    """Rejects a name that isn't one of ``known``.

    Raises:
      ValueError: it isn't; the message suggests the nearest and lists all.

    >>> check_name("lr", ["learning_rate", "b1"], "state.hyperparams has no entry")
    Traceback (most recent call last):
    ValueError: state.hyperparams has no entry 'lr' (did you mean 'learning_rate'?): choose from learning_rate, b1
    """
    known = list(known)
    if name not in known:
        found = difflib.get_close_matches(name, known, n=1, cutoff=0.25)
        hint = f" (did you mean {found[0]!r}?)" if found else ""
        raise ValueError(f"{what} {name!r}{hint}: choose from {', '.join(known)}")
