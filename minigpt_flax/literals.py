"""Literals that a keyword of a spec accepts, derived from its annotation in the signature of the row.

A library function also accepts arrays, schedules, functions and trees; on the command line only literals exist.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigpt_flax.bounds import INT32
from minigpt_flax.text import shortened

LARGEST = 1e30  # its square root and most products with gradients are finite in float32
MAX_VALUES = {"ns_steps": 100, "depth": 1000}  # keywords whose cost grows with their value
MAX_ENTRIES = 1000  # of a tuple or a dict
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Literal:
    """A kind of literal.

    Attributes:
      what: its description in error messages; None if it can't be written on the command line.
      accepts: whether a value is of this kind.
    """

    what: str | None
    accepts: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= INT32


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float) and abs(value) <= LARGEST


def _is_coefficients(value: Any) -> bool:
    """Whether a value is a name, three numbers, or rows of three numbers."""
    rows = value if isinstance(value, tuple) and value and isinstance(value[0], tuple) else (value,)
    return (
        isinstance(value, str)
        or len(rows) <= MAX_ENTRIES
        and all(isinstance(row, tuple) and len(row) == 3 and all(map(_is_number, row)) for row in rows)
    )


NONE = Literal("None", lambda value: value is None)
NUMBER = Literal(f"a number of at most {LARGEST:g}", _is_number)
UNWRITABLE = Literal(None, lambda value: False)
NAMED: dict[str, Literal] = {
    "None": NONE,
    "bool": Literal("True or False", lambda value: isinstance(value, bool)),
    "int": Literal(f"a whole number of at most {INT32:,}", _is_whole),
    "float": Literal("a number or inf", lambda value: _is_number(value) or value == math.inf),
    "str": Literal("text in quotes", lambda value: isinstance(value, str)),
    "ArrayLike": NUMBER,
    "ScalarOrSchedule": NUMBER,
    "Duration": Literal("a number of steps, or a fraction of the run between 0 and 1", _is_number),
    "DTypeLike": Literal(f"one of {', '.join(map(repr, DTYPES))}", lambda value: value in DTYPES),
    "Coefficients": Literal("a name, three numbers such as (2.0, -1.5, 0.5), or rows of three", _is_coefficients),
}


@functools.cache
def literals(annotation: str) -> list[Literal]:
    """Return the kinds of literals that an annotation allows, one per alternative of a union.

    >>> [literal.what for literal in literals("int | None")]
    ['a whole number of at most 2,147,483,647', 'None']
    """
    return [_literal(part) for part in _split(annotation, "|")]


def problem(parameter: inspect.Parameter, value: Any) -> str | None:
    """Return why a parameter can't be set to a value on the command line; None if it can.

    >>> parameter = inspect.Parameter("b1", inspect.Parameter.KEYWORD_ONLY, annotation="ArrayLike")
    >>> problem(parameter, "x"), problem(parameter, 0.9)
    ("b1 takes a number of at most 1e+30, got 'x'", None)
    """
    allowed = literals(_annotation(parameter))
    if any(literal.accepts(value) for literal in allowed):
        most = MAX_VALUES.get(parameter.name)
        too_large = most is not None and _is_number(value) and value > most
        return f"{parameter.name} must be at most {most:,}, got {value}" if too_large else None
    kinds = list(dict.fromkeys(literal.what for literal in allowed if literal.what is not None))
    got = f"got {shortened(repr(value))}"
    if not kinds:
        return f"{parameter.name} can only be set in Python, {got}: omit it"
    return f"{parameter.name} takes {' or '.join(kinds)}, {got}"


def _annotation(parameter: inspect.Parameter) -> str:
    """Return the annotation as text; a mask whose default is a bool also allows a bool."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
    return f"{text} | bool" if isinstance(parameter.default, bool) and "bool" not in text else text


def _literal(annotation: str) -> Literal:
    outer, _, inner = annotation.removesuffix("]").partition("[")
    if not inner:
        return NAMED.get(outer, UNWRITABLE)
    parts = [_literal(part) for part in _split(inner, ",") if part != "..."]
    if outer == "tuple" and "..." not in inner:
        what = f"({', '.join(str(part.what) for part in parts)})"
        return Literal(what, lambda value: isinstance(value, tuple) and _fit(parts, value))
    if outer in ("tuple", "Sequence", "Collection"):
        one = parts[0]
        return Literal(
            f"a tuple of {one.what}",
            lambda value: isinstance(value, tuple) and len(value) <= MAX_ENTRIES and all(map(one.accepts, value)),
        )
    if outer == "Mapping":
        key, entry = parts
        return Literal(
            "a dict such as {'name': 4}",
            lambda value: (
                isinstance(value, dict) and all(map(key.accepts, value)) and all(map(entry.accepts, value.values()))
            ),
        )
    return UNWRITABLE


def _fit(parts: list[Literal], values: tuple[Any, ...]) -> bool:
    return len(parts) == len(values) and all(part.accepts(value) for part, value in zip(parts, values, strict=True))


def _split(text: str, mark: str) -> list[str]:
    """Split at a separator outside all brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
