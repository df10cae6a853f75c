"""The values that a search tries for one keyword: ``lr=1e-4..1e-2``, ``weight_decay=0.01,0.1,0.3``. Imports no JAX.

A range is ``NAME=LOW..HIGH[:SCALE][:COUNT]``. It becomes a grid of COUNT values, and extends beyond its ends if the
best value is at one of them. A list is ``NAME=V,V,...``; it never extends.

The scales are ``log``; ``linear``; and ``1-x``, a logarithmic scale of the distance from 1, which suits the decay rates
of averages: 0.9, 0.99 and 0.999 are equally far apart. On the last one and ``log``, a range has two values a decade.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minigpt_flax.errors import UserError, check_name
from minigpt_flax.text import shortened

LOG, LINEAR, ONE_MINUS, LIST = "log", "linear", "1-x", "list"
SCALES = (LOG, LINEAR, ONE_MINUS)
PER_DECADE = 2
FEWEST, USUAL, MOST = 3, 5, 33  # values of a range; USUAL on a linear scale
DIGITS = 2  # significant digits of a value on a logarithmic scale, as far as neighbors stay distinct
NUMBER = r"[-+0-9.eE]+?"
RANGE = re.compile(rf"(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?::(?P<scale>[a-z1-]+))?(?::(?P<count>\d{{1,4}}))?")
FORM = "--over takes NAME=LOW..HIGH or NAME=VALUE,VALUE,..., such as lr=1e-4..1e-2 or weight_decay=0.01,0.1"

TO: dict[str, Callable[[float], float]] = {
    LOG: math.log10,
    LINEAR: float,
    ONE_MINUS: lambda value: -math.log10(1 - value),
}


@dataclass(frozen=True)
class Axis:
    """One keyword and the values to try.

    Attributes:
      name: of the keyword.
      values: the grid, ascending.
      scale: one of ``SCALES``, or ``list``.
    """

    name: str
    values: tuple[float, ...]
    scale: str

    @property
    def is_range(self) -> bool:
        """Whether it may extend."""
        return self.scale != LIST

    def value(self, index: int) -> float | None:
        """The value at an index of the grid; beyond its ends, that of the extended range, or None where it ends.

        >>> axis = parse("b2=0.9..0.999")
        >>> [axis.value(index) for index in (0, 1, 4, 5, -1, -2)]
        [0.9, 0.968, 0.999, 0.99968, 0.68, 0.0]
        """
        if 0 <= index < len(self.values):
            return self.values[index]
        return self._beyond(index) if self.is_range else None

    def _beyond(self, index: int) -> float | None:
        low, high = (TO[self.scale](value) for value in (self.values[0], self.values[-1]))
        gap = (high - low) / (len(self.values) - 1)
        place = low + gap * index
        if self.scale == ONE_MINUS and place < 0:
            return 0.0 if place + gap > 1e-3 else None  # the scale ends at 0
        value = _rounded(place, self.scale)
        return None if value < 0 <= self.values[0] or value in self.values else value

    def __str__(self) -> str:
        """The plan of this keyword in words."""
        values = ", ".join(f"{value:g}" for value in self.values)
        return f"{self.name}: {values} ({'list' if self.scale == LIST else f'range, {self.scale}'})"


def parse(text: str, default: int | float | None = None) -> Axis:
    """Reads one ``--over``.

    Args:
      text: as typed.
      default: the optimizer's own value, if it is a number; one from 0.5 to 1 makes the scale of a range ``1-x``.

    Raises:
      UserError: it has another form, one value only, or a range that is reversed or impossible on its scale.

    >>> parse("lr=1e-3..1e-2")
    Axis(name='lr', values=(0.001, 0.0032, 0.01), scale='log')
    >>> parse("weight_decay=0.3,0.1")
    Axis(name='weight_decay', values=(0.1, 0.3), scale='list')
    """
    name, mark, values = text.partition("=")
    if not mark or not name.isidentifier() or not values:
        raise UserError(f"{FORM}; got {shortened(repr(text))}")
    return _range(name, values, default) if ".." in values else _list(name, values)


def _list(name: str, text: str) -> Axis:
    values = sorted({_number(name, word) for word in text.split(",")})
    if len(values) < 2:
        raise UserError(f"--over {name} has one value only, {values[0]:g}: give two or more, or set it without --over")
    if len(values) > MOST:
        raise UserError(f"--over {name} takes at most {MOST} values, got {len(values)}")
    return Axis(name, tuple(values), LIST)


def _range(name: str, text: str, default: int | float | None) -> Axis:
    found = RANGE.fullmatch(text)
    if found is None:
        raise UserError(
            f"--over {name} takes LOW..HIGH, LOW..HIGH:SCALE or LOW..HIGH:SCALE:COUNT; got {shortened(text)!r}"
        )
    low, high = _number(name, found["low"]), _number(name, found["high"])
    if low == high:
        raise UserError(f"--over {name} has one value only, {low:g}: give two ends, or set it without --over")
    if low > high:
        raise UserError(f"--over {name}: the range {low:g}..{high:g} is reversed: write {name}={high:g}..{low:g}")
    scale = found["scale"] or usual_scale(name, low, high, default)
    check_name(scale, SCALES, f"scale of --over {name}")
    if scale == LOG and low <= 0:
        raise UserError(
            f"--over {name}: a log scale needs values above 0, got {low:g}: write {text.split(':')[0]}:linear"
        )
    if scale == ONE_MINUS and not (0 <= low and high < 1):
        raise UserError(f"--over {name}: a 1-x scale takes values from 0 to below 1, got {low:g}..{high:g}")
    return Axis(name, spaced(low, high, scale, _count(name, found["count"], low, high, scale)), scale)


def usual_scale(name: str, low: float, high: float, default: int | float | None) -> str:
    """The scale of a range that names none.

    >>> usual_scale("b2", 0.9, 0.999, 0.99), usual_scale("lr", 1e-4, 1e-2, 1e-3), usual_scale("warmup", 0.0, 0.2, 0.1)
    ('1-x', 'log', 'linear')
    """
    averages = 0.5 <= default < 1 if default is not None else high >= 0.9
    if name != "lr" and averages and 0 <= low and high < 1:
        return ONE_MINUS
    return LOG if low > 0 else LINEAR


def _count(name: str, text: str | None, low: float, high: float, scale: str) -> int:
    """The number of values of a range."""
    if text is None:
        decades = 0 if scale == LINEAR else TO[scale](high) - TO[scale](low)
        usual = USUAL if scale == LINEAR else round(PER_DECADE * decades) + 1
        return min(max(usual, FEWEST), MOST)
    if not 2 <= int(text) <= MOST:
        raise UserError(f"--over {name}: a range has 2 to {MOST} values, got {text}")
    return int(text)


def spaced(low: float, high: float, scale: str, count: int) -> tuple[float, ...]:
    """Values at equal distances on a scale; the ends are exact."""
    first, last = TO[scale](low), TO[scale](high)
    inner = [_rounded(first + (last - first) * k / (count - 1), scale) for k in range(1, count - 1)]
    return tuple(sorted({low, *inner, high}))


def _rounded(place: float, scale: str) -> float:
    """The value at a place, with few digits."""
    if scale == LOG:
        return float(f"{10.0**place:.{DIGITS}g}")
    if scale == ONE_MINUS:
        return round(1 - float(f"{10.0**-place:.{DIGITS}g}"), 12)
    return float(f"{place:.6g}")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--over {name} takes numbers, got {shortened(repr(text))}") from None
    if not math.isfinite(value):
        raise UserError(f"--over {name} takes finite numbers, got {text}")
    return value + 0.0


def distinct(axes: Sequence[Axis]) -> Sequence[Axis]:
    """Returns the axes.

    Raises:
      UserError: there is none, or a keyword has two.
    """
    names = [axis.name for axis in axes]
    if not names:
        raise UserError(f"{FORM}; none is given")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--over {twice[0]} is given twice: give each keyword once")
    return axes
