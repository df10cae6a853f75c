"""Batches from several sources in fixed proportions, which are also a function of (seed, step) only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int32, Int64

from minigpt_flax.data.batches import Batches, Rows, window_indices
from minigpt_flax.data.token_files import Tokens
from minigpt_flax.errors import UserError
from minigpt_flax.text import counted, shortened

_SHARE = re.compile(r"-?[0-9.]{1,30}(e[+-]?[0-9]{1,2})?|[0-9]{1,30}/[0-9]{1,30}")
_PERIOD = 10_000  # maximum number of rows after which the order of the sources repeats
_STRIDE = 0x9E3779B97F4A7C15  # between the sources' seeds: 2**64 / golden ratio, which is odd


def read_weights(text: str, sources: Sequence[str]) -> tuple[Fraction, ...]:
    """Parse ``0.7,0.3`` or ``1/3,2/3``, the shares of the sources in the training rows.

    Raises:
      UserError: a share isn't a number above 0, they don't sum to 1, or their number isn't that of the sources.

    >>> read_weights("0.7,0.3", ["a.txt", "b.txt"])
    (Fraction(7, 10), Fraction(3, 10))
    """
    parts, shown = [part.strip() for part in text.split(",")], shortened(text)
    try:
        if not all(map(_SHARE.fullmatch, parts)):
            raise ValueError("too many digits, or not a number")
        weights = tuple(map(Fraction, parts))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"--mix {shortened(repr(text))} is not a list of shares: give a number for each --data, such as 0.7,0.3"
        ) from error
    if len(weights) != len(sources):
        shares, count = counted(len(weights), "share"), counted(len(sources), "source")
        raise UserError(f"--mix {shown} has {shares}, but --data names {count}: {', '.join(sources)}")
    if min(weights) <= 0:
        raise UserError(f"--mix {shown}: a share must be above 0; omit the --data that should have none")
    if (total := sum(weights, Fraction())) != 1:
        near = ",".join(f"{float(weight / total):.4g}" for weight in weights)
        raise UserError(f"the shares of --mix {shown} sum to {_exactly(total)}, not to 1; normalized: {near}")
    return weights


def _exactly(total: Fraction) -> str:
    """Format a sum that isn't 1 with enough digits to show the difference.

    >>> _exactly(Fraction(11, 10)), _exactly(1 + Fraction(1, 10**9)), _exactly(1 - Fraction(1, 10**30))
    ('1.1', '1.000000001', '1 - 1e-30')
    """
    shown = f"{float(total):.10g}"
    if shown != "1":
        return shown
    return f"1 {'+' if total > 1 else '-'} {abs(float(total - 1)):.1g}"


def by_size(sizes: Sequence[int]) -> tuple[Fraction, ...]:
    """Return shares proportional to the sources' numbers of tokens, in ten-thousandths; every source has at least one.

    >>> [str(weight) for weight in by_size([100, 300])]
    ['1/4', '3/4']
    """
    parts = [max(1, round(_PERIOD * size / sum(sizes))) for size in sizes]
    return tuple(Fraction(part, sum(parts)) for part in parts)


class Mixture:
    """Rows of several `Batches`; each source visits its windows without replacement per epoch, as it would alone.

    The order of the sources repeats every D rows, where D is the common denominator of the weights: source i has
    exactly ``w_i D`` rows in it, the j-th at ``(j + 1/2) / w_i`` or next to it. At any point its number of rows is
    within 1 of its share for two sources, and close to that for more. D is at most 10,000: finer shares are rounded.

    >>> parts = [Batches(np.arange(0, 50), 4, 8, seed=0), Batches(np.arange(100, 150), 4, 8, seed=1)]
    >>> Mixture(parts, [Fraction(3, 4), Fraction(1, 4)])(0)[:, 0].tolist()
    [17, 9, 123, 41]
    """

    def __init__(self, parts: Sequence[Batches], weights: Sequence[Fraction]):
        """Combine the sources' batches, all of one shape, by their shares, which sum to 1."""
        self.batch_size, self.context = parts[0].batch_size, parts[0].context
        self.weights = tuple(weights)
        self._parts = parts
        counts = _counts(weights)
        times = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        owners = np.repeat(np.arange(len(parts)), counts)
        self._order = owners[np.argsort(times, kind="stable")]  # the source of each row of a period
        self._counts = np.array(counts)
        self._before = np.zeros(len(self._order), np.int64)  # earlier rows of the same source in the period
        for i, count in enumerate(counts):
            self._before[self._order == i] = np.arange(count)

    def __call__(self, step: int, rows: Rows | None = None) -> Int32[np.ndarray, "_ {self.context}+1"]:
        """Return the batch of a step, [B, T + 1], or some of its rows; see `Batches`."""
        return self.windows(window_indices(step, self.batch_size, rows))

    def windows(self, indices: Int64[np.ndarray, " rows"]) -> Int32[np.ndarray, "rows {self.context}+1"]:
        """Return windows by index; see `Batches.windows`."""
        periods, places = np.divmod(indices, len(self._order))
        owners = self._order[places]
        own = periods * self._counts[owners] + self._before[places]  # each row's index among the rows of its source
        rows = np.empty((len(indices), self.context + 1), np.int32)
        for i in np.unique(owners):
            rows[owners == i] = self._parts[i].windows(own[owners == i])
        return rows


def mix(
    tokens: Sequence[Tokens], weights: Sequence[Fraction], batch_size: int, context: int, seed: int
) -> Batches | Mixture:
    """Return the batches of one or several sources.

    Args:
      tokens: tokens of each source.
      weights: share of each source.
      batch_size: windows per batch.
      context: predictions per window.
      seed: seed of the run; each source derives its own, and the first uses this one.

    Raises:
      UserError: see `Batches`.
    """
    parts = [Batches(each, batch_size, context, (seed + i * _STRIDE) % 2**64) for i, each in enumerate(tokens)]
    return parts[0] if len(parts) == 1 else Mixture(parts, weights)


def _counts(weights: Sequence[Fraction]) -> list[int]:
    """Return the number of rows of each source in a period."""
    period = math.lcm(*(weight.denominator for weight in weights))
    if period <= _PERIOD:
        return [int(weight * period) for weight in weights]
    return [max(1, round(weight * _PERIOD)) for weight in weights]
