"""The search of ``--lr auto``: bracket the best learning rate with short runs, refine with longer ones, extrapolate.

Short runs prefer high learning rates, for two reasons. Below the optimum, the loss depends on the learning rate times
the steps, so that an eighth of a run at some rate is as far as a full run at an eighth of it. Above the optimum,
training is unstable, and the loss depends on chance rather than on the rate: with AdamW on a small GPT, the losses of a
quarter of a run at 0.005, 0.01, 0.03 and 0.1 are 3.30, 3.26, 3.23 and 3.24, but 2.97, 3.04, 3.04 and 3.02 after a full
one, with a standard deviation of 0.1 between seeds. The lowest of such losses may be anywhere. So the search has three
steps:

1. *Bracket*. Runs of an eighth of the steps, at the optimizer's own learning rate and half a decade on either side. The
   grid extends by half a decade while its best rate is at an end, up to six rates. A higher rate counts as better only
   if its loss is lower by a tenth of the loss's range between the lowest rate and the best one.
2. *Refine*. Three runs of half of the steps, 3/8 of a decade apart, around the rate expected for this length. The
   optimum is the mean of their log rates with the weights ``exp(-loss / temperature)``, not the lowest of three noisy
   losses; the temperature is 0.15 times that range.
3. *Extrapolate*. The log of the best rate is linear in the log of the steps (Bjorck et al., 2024, arXiv:2409.19913), so
   that the optimum shifts from half of the steps to all of them by half of its shift from an eighth to a half. The
   shift is between 0 and a factor of 2 for twice the steps, where the learning rate times the steps would be constant.

``python -m benchmarks.search`` measures the regret: the loss at the selected rate above that at the best one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

SHORT, LONG = 8, 2  # divisors of the steps
STEP, FINE = 1 / 2, 3 / 8  # decades between the learning rates of short and of long runs
MOST_SHORT, COUNT_LONG = 6, 3  # runs
SHORTEST = 16  # steps of a run whose eighth is still a run
TOLERANCE, TEMPERATURE = 0.1, 0.15  # of the range of the losses
TYPICAL, LARGEST = 0.1, math.log10(2)  # shift for twice the steps, decades
DOUBLINGS = math.log2(SHORT / LONG)
BELOW, ABOVE = 1, 3  # octaves beyond the optima that are expected for several widths

Score = Callable[[Sequence[float], int], Sequence[float]]


def lengths(steps: int) -> list[int]:
    """Steps of every run of a search that takes as many runs as it may.

    >>> lengths(300), sum(lengths(300))
    ([37, 37, 37, 37, 37, 37, 150, 150, 150], 672)
    """
    return [steps // SHORT] * MOST_SHORT + [steps // LONG] * COUNT_LONG


def grid(start: float, indices: Sequence[int]) -> list[float]:
    """Learning rates at half decades from the start.

    >>> grid(1e-3, range(-1, 2))
    [0.00032, 0.001, 0.0032]
    """
    return [_rounded(math.log10(start) + STEP * k) for k in indices]


def for_widths(best: float, widths: Sequence[int]) -> list[float]:
    """Learning rates an octave apart in which the optimum of every width is expected: it falls at most like 1 / width.

    Args:
      best: the best learning rate of the narrowest width.
      widths: ascending.

    >>> for_widths(0.004, [64, 128, 256])
    [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032]
    """
    below = BELOW + math.ceil(math.log2(widths[-1] / widths[0]))
    return [_rounded(math.log10(best * 2.0**k)) for k in range(-below, ABOVE + 1)]


def _rounded(decades: float) -> float:
    return float(f"{10**decades:.2g}")


def search(start: float, steps: int, score: Score) -> float:
    """Returns the best learning rate.

    Args:
      start: the optimizer's own learning rate.
      steps: length of a full run.
      score: (rates, steps) -> their losses; infinite if a run diverged.

    >>> search(1.0, 800, lambda rates, steps: [(math.log10(rate) - 0.3) ** 2 for rate in rates])
    1.4
    """
    losses = bracket(start, lambda rates: score(rates, steps // SHORT))
    rates = [math.log10(rate) for rate in sorted(losses)]
    short = lowest_good(rates, [losses[rate] for rate in sorted(losses)])
    tried = [_rounded(short - TYPICAL * DOUBLINGS + FINE * k) for k in (-1, 0, 1)]
    temperature = TEMPERATURE * loss_range([losses[rate] for rate in sorted(losses)])
    long = weighted_mean([math.log10(rate) for rate in tried], score(tried, steps // LONG), temperature)
    shift = min(max((short - long) / DOUBLINGS, 0.0), LARGEST)
    return _rounded(long - shift * math.log2(LONG))


def bracket(start: float, score: Callable[[Sequence[float]], Sequence[float]]) -> dict[float, float]:
    """The losses of short runs by learning rate, with a best rate that is at no end if so many runs suffice."""
    low, high = -1, 1
    losses = dict(zip(grid(start, range(low, high + 1)), score(grid(start, range(low, high + 1))), strict=True))
    while len(losses) < MOST_SHORT and (end := open_end(losses)):
        low, high = (low - 1, high) if end == "lowest" else (low, high + 1)
        more = grid(start, [low if end == "lowest" else high])
        losses |= zip(more, score(more), strict=True)
    return losses


def open_end(losses: dict[float, float]) -> str:
    """The end of the tried learning rates beyond which the best one may lie: ``lowest``, ``highest`` or none.

    >>> open_end({0.1: 3.0, 1.0: 2.0, 10.0: 1.95}), open_end({0.1: 3.0, 1.0: 2.0, 10.0: 1.0})
    ('', 'highest')
    """
    values = [losses[rate] for rate in sorted(losses)]
    if not values:
        return ""
    best = values.index(min(values))
    if best == 0:
        return "lowest"
    better = values[-1] < values[-2] - TOLERANCE * loss_range(values)
    return "highest" if best == len(values) - 1 and better else ""


def loss_range(losses: Sequence[float]) -> float:
    """The range of the losses from the lowest learning rate that didn't diverge to the best one.

    Args:
      losses: by ascending learning rate.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    return finite[0] - min(finite) if finite else 0.0


def lowest_good(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The lowest learning rate near the best one whose loss is within the tolerance, interpolated.

    Args:
      rates: log rates, ascending.
      losses: their losses.

    >>> lowest_good([0.0, 1.0, 2.0], [4.0, 3.0, 3.0]), lowest_good([0.0, 1.0, 2.0], [4.0, 2.0, 3.0])
    (0.9, 0.9)
    """
    i = losses.index(min(losses))
    most = losses[i] + TOLERANCE * loss_range(losses)
    while i > 0 and losses[i - 1] <= most:
        i -= 1
    if i == 0 or not math.isfinite(losses[i - 1]):
        return rates[i]
    return rates[i] - (rates[i] - rates[i - 1]) * (most - losses[i]) / (losses[i - 1] - losses[i])


def weighted_mean(rates: Sequence[float], losses: Sequence[float], temperature: float) -> float:
    """The mean of log rates, weighted by ``exp(-loss / temperature)``; at temperature 0, the best one."""
    least = min(losses)
    if not math.isfinite(least) or not temperature:
        return rates[losses.index(least)]
    weights = [math.exp((least - loss) / temperature) for loss in losses]
    return sum(weight * rate for weight, rate in zip(weights, rates, strict=True)) / sum(weights)
