"""How noisy the gradient is: signal against noise by role, and the batch size up to which more tokens buy fewer steps.

McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training" (2018, arXiv 1812.06162): with S the
trace of the covariance of one token's gradient and G the true gradient, a batch much smaller than S / |G|^2 tokens
wastes steps and one much larger wastes tokens. A batch's tokens are not independent, so S is measured between batches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jaxopt_mini import tree
from minigpt_flax.diagnose.checkpoint_view import Subject
from minigpt_flax.diagnose.result import Finding
from minigpt_flax.runs.plots import COLOURS, dress
from minigpt_flax.train.evaluate import perplexity

NINETY = 1.645  # standard errors to either side of a 90 % interval
BATCHES_PER_LOOK = 8  # the covariance needs more batches than the mean


class Sums(NamedTuple):
    """What n gradients g_i of batches of the same number of tokens, and their mean m, come to.

    Attributes:
      squares: float64[n], |g_i|^2.
      inner: float64[n], g_i . m.
      mean_square: |m|^2.
    """

    squares: np.ndarray
    inner: np.ndarray
    mean_square: float

    def without(self, i: int) -> tuple[np.ndarray, float]:
        """``squares`` and ``mean_square`` as if batch i had not been drawn."""
        n = len(self.squares)
        square = (n**2 * self.mean_square - 2 * n * self.inner[i] + self.squares[i]) / (n - 1) ** 2
        return np.delete(self.squares, i), float(square)


def study(subject: Subject) -> Finding:
    """Measures signal and noise of the gradient, all parameters together and by role."""
    sums = _sums(subject)
    scales = {name: scale(found, subject.tokens) for name, found in sums.items()}
    signal = {name: ratio(found, subject.tokens) for name, found in sums.items()}
    best, low, high = scales["all"]
    numbers = {
        "noise_scale_tokens": best,
        "interval": [low, high],
        "by_role": {name: found[0] for name, found in scales.items() if name != "all"},
        "signal_to_noise": signal,
        "batch_tokens": subject.tokens,
        "batches": len(sums["all"].squares),
    }
    return Finding(_sentences(numbers), numbers, lambda figure: _draw(figure, numbers))


def _sums(subject: Subject) -> dict[str, Sums]:
    """Two passes over the batches: their mean gradient first, then each one's length and its part along the mean."""
    batches = subject.draw(BATCHES_PER_LOOK * len(subject.batches))
    mean = jax.jit(subject.gradient)(subject.params, batches)
    roles = sorted({entry.role for entry in jax.tree.leaves(subject.run.layout)})

    def by_role(values: Any, other: Any) -> jax.Array:
        """Inner products, a role an entry."""
        leaves = zip(*map(jax.tree.leaves, (values, other, subject.run.layout)), strict=True)
        found = [(entry.role, tree.inner(a, b)) for a, b, entry in leaves]
        return jnp.stack([sum(value for role, value in found if role == wanted) for wanted in roles])

    @jax.jit
    def one(batch):
        grad = jax.grad(subject.loss)(subject.params, batch)
        return by_role(grad, grad), by_role(grad, mean)

    rows = []
    for i, batch in enumerate(batches, start=1):
        rows.append(jax.device_get(one(batch)))
        subject.report("noise", i, len(batches))
    squares, inner = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    whole = np.asarray(by_role(mean, mean), np.float64)
    parts = {role: Sums(squares[:, i], inner[:, i], float(whole[i])) for i, role in enumerate(roles)}
    return {"all": Sums(squares.sum(1), inner.sum(1), float(whole.sum())), **parts}


def parts(squares: np.ndarray, mean_square: float, tokens: int) -> tuple[float, float]:
    """Unbiased (S, |G|^2) from n batches of ``tokens`` each.

    The mean of n gradients has |G|^2 + S / (n b) for its expected square, one of them |G|^2 + S / b.
    """
    n = len(squares)
    spread = tokens * n / (n - 1) * (squares.mean() - mean_square)
    return float(spread), float(mean_square - spread / (n * tokens))


def scale(sums: Sums, tokens: int) -> tuple[float, float, float]:
    """S / |G|^2 in tokens and the ends of its 90 % interval, by the jackknife of its logarithm.

    Infinite, with an interval of everything, where |G| is lost in the noise.
    """
    n = len(sums.squares)
    whole = _log_scale(sums.squares, sums.mean_square, tokens)
    others = np.array([_log_scale(*sums.without(i), tokens) for i in range(n)])
    if not (np.isfinite(whole) and np.isfinite(others).all()):
        return perplexity(whole), 0.0, math.inf
    error = math.sqrt((n - 1) / n * np.sum((others - others.mean()) ** 2))
    return perplexity(whole), perplexity(whole - NINETY * error), perplexity(whole + NINETY * error)


def _log_scale(squares: np.ndarray, mean_square: float, tokens: int) -> float:
    spread, square = parts(squares, mean_square, tokens)
    return math.log(spread / square) if spread > 0 and square > 0 else math.inf


def ratio(sums: Sums, tokens: int) -> float:
    """|G| over the noise of one batch."""
    spread, square = parts(sums.squares, sums.mean_square, tokens)
    return math.sqrt(max(square, 0.0) / (spread / tokens)) if spread > 0 else math.inf


def _sentences(numbers: dict[str, Any]) -> list[str]:
    best, (low, high), now = numbers["noise_scale_tokens"], numbers["interval"], numbers["batch_tokens"]
    if not math.isfinite(best):
        return [
            f"The mean gradient is lost in the noise of {numbers['batches']} batches: look at more with --batches, "
            "or take it that larger batches will pay."
        ]
    advice = "larger batches would pay" if best > 2 * now else "smaller ones would do" if best < now / 2 else "it fits"
    weakest = min((name for name in numbers["by_role"]), key=lambda name: numbers["signal_to_noise"][name])
    return [
        f"The gradient noise scale is {best:,.0f} tokens (90 %: {low:,.0f} to {high:,.0f}): a batch of about that size "
        f"balances steps against tokens; the run's has {now:,}, so {advice}.",
        f"In one batch the signal is {numbers['signal_to_noise']['all']:.2g} times the noise; it is weakest for the "
        f"role {weakest} ({numbers['signal_to_noise'][weakest]:.2g}).",
    ]


def _draw(figure: Figure, numbers: dict[str, Any]) -> None:
    axes = figure.subplots()
    names = list(numbers["signal_to_noise"])
    axes.bar(names, [numbers["signal_to_noise"][name] for name in names], color=COLOURS[0])
    axes.axhline(1.0, color="0.55", linewidth=1)
    axes.set_title(f"noise scale {numbers['noise_scale_tokens']:,.0f} tokens", fontsize=10)
    dress(axes, "signal over noise, one batch")
